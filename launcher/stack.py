"""The whole service on one machine: an embedded Valkey, the API, a worker that trains, and one for batches.

    nextchar serve                    what `make serve` runs
    with Stack(settings) as stack:    what the demo and the end-to-end tests use

Each is a child process that dies with this one. A process that exits is restarted, after a pause that grows
with each failure, while the others continue: the API serves completions without Redis and without a worker.
At the start, invalid settings or an API that does not get ready stop everything and print the end of the log.
The processes log to `<data>/logs/<name>.log`; their warnings are repeated on the terminal.

Finds free TCP ports.
"""

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Self

from nextchar.launcher.processes import (
    LauncherError,
    Output,
    SupervisedProcess,
    cannot_write,
    handle,
    start_bound,
)
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.kernels.compile_cache import needs_compiling

# Below the ephemeral ports. A client that connects to an ephemeral port before the server listens could get
# the same port as its own, connect to itself, and block the server.
_RANGE = range(15_000, 30_000)
_TRIES = 100


def free_port(host: str) -> int:
    """Return a port that nothing listens on. Raises LauncherError if none is found."""
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if _problem(host, port) is None:
            return port
    raise LauncherError(f"found no free TCP port on {host}")


def require_free(host: str, port: int) -> None:
    """Raise LauncherError, with the settings to change, if the port cannot be listened on."""
    problem = _problem(host, port)
    if problem is not None:
        raise LauncherError(
            f"cannot listen on {host} port {port}: {problem}; set NEXTCHAR_HOST or NEXTCHAR_PORT to another"
        )


def address_to_reach(host: str, port: int) -> str:
    """Return host:port for a client on this machine of a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _problem(host: str, port: int) -> str | None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            trial.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return None


_POLL_S = 0.1
_READY_S = 90.0  # the first start on a cold disk reads a gigabyte of TensorFlow
_API_STOP_S = 10.0  # after its requests have ended
_MAX_FAILED_STARTS = 5  # of the API, before it was ready once
# The API is on this machine: no proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Stack:
    """The running service, as a context manager.

    `settings.port` 0 uses a free port. `environment` has additional variables for the API and the workers.
    Entering waits until the API is ready, and raises LauncherError if it does not get ready.
    """

    def __init__(self, settings: LauncherSettings, *, environment: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._extra = dict(environment or {})
        self._data_dir = settings.data_dir.resolve()
        self._output = Output(settings.log_format)
        self._valkey: EmbeddedValkey | None = None
        self._api: SupervisedProcess | None = None
        self._worker: SupervisedProcess | None = None
        self._started = threading.Event()
        self._has_been_ready = False
        self._stopping = threading.Event()
        # One thread starts all children: a child is killed when the thread that started it ends.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stack")
        self._run_done: Future[None] | None = None
        self.redis_url = settings.given_redis_url or ""
        self.url = ""

    @property
    def api_pid(self) -> int:
        """The API's process id; another after a restart."""
        assert self._api is not None, "not started"
        return self._api.pid

    @property
    def worker_pid(self) -> int:
        """The process id of the worker's parent process; another after a restart."""
        assert self._worker is not None, "not started"
        return self._worker.pid

    @property
    def valkey_pid(self) -> int:
        """The embedded Valkey's process id; another after a restart."""
        assert self._valkey is not None, "not started, or NEXTCHAR_REDIS_URL is given"
        return self._valkey.pid

    def __enter__(self) -> Self:
        """Start everything and wait until the API is ready."""
        self._run_done = self._thread.submit(self._run)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything; the worker has `stop_grace_s` seconds to save a checkpoint."""
        self.stop()

    def stop(self) -> None:
        """Stop workers, API and Valkey in this order, and wait for them. Can be called again."""
        self._stopping.set()
        self._thread.shutdown()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the stack is stopped and return True, or return False after `timeout_s` seconds.

        Raises LauncherError if the start failed.
        """
        assert self._run_done is not None, "not started"
        if not wait([self._run_done], timeout_s).done:
            return False
        self._run_done.result()
        return True

    def _run(self) -> None:
        if self._settings.given_redis_url:
            self._supervise([])
            return
        valkey = EmbeddedValkey(self._data_dir, max_bytes=self._settings.valkey_max_bytes)
        valkey.open()
        try:
            self._valkey, self.redis_url = valkey, valkey.url
            process = SupervisedProcess("embedded Valkey", valkey.launch, valkey.log, self._output)
            with contextlib.closing(process):
                process.keep_running()
                try:
                    valkey.wait_until_ready()
                except LauncherError as error:  # the API serves what it can without Redis
                    self._output.say(str(error), level="ERROR")
                self._supervise([process])
        finally:
            valkey.close()

    def _supervise(self, others: list[SupervisedProcess]) -> None:
        host, port = self._settings.host, self._settings.port
        if port == 0:
            port = free_port(host)
        else:
            require_free(host, port)
        self.url = f"http://{address_to_reach(host, port)}"
        environment = self._environment(port)
        self._worker, batch_worker, self._api = programs = [
            self._program("worker", "nextchar.worker.main", environment),
            self._program(
                "batch-worker", "nextchar.worker.main", environment | {"NEXTCHAR_QUEUE": "batches"}
            ),
            self._program("API", "nextchar.app.main", environment),
        ]
        try:
            while not self._stopping.is_set():
                for process in (*others, *programs):
                    process.keep_running()
                if not self._has_been_ready and self._api.failures >= _MAX_FAILED_STARTS:
                    raise LauncherError(self._api.last_failure)
                self._started.set()
                for process in (*others, *programs):
                    process.print_new_warnings()
                self._stopping.wait(_POLL_S)
        finally:
            self._worker.stop(self._settings.stop_grace_s)
            batch_worker.stop(self._settings.stop_grace_s)
            self._api.stop(self._settings.drain_s + _API_STOP_S)
            for process in programs:
                process.print_new_warnings()
                process.close()

    def _program(self, name: str, module: str, environment: Mapping[str, str]) -> SupervisedProcess:
        log = self._data_dir / "logs" / f"{name.lower()}.log"
        command = [sys.executable, "-m", module]
        start = partial(start_bound, command, log=log, environment=environment)
        try:
            return SupervisedProcess(name, start, log, self._output)
        except OSError as error:
            raise cannot_write(self._data_dir, error) from error

    def _environment(self, port: int) -> dict[str, str]:
        given = self._settings.model_dump(mode="json", include=self._settings.model_fields_set)
        return {
            **os.environ,
            **{f"NEXTCHAR_{name.upper()}": str(v) for name, v in given.items() if v is not None},
            "NEXTCHAR_DATA_DIR": str(self._data_dir),
            "NEXTCHAR_REDIS_URL": self.redis_url,
            "NEXTCHAR_PORT": str(port),
            "PYTHONSAFEPATH": "1",  # `-m` would put the working directory, with the user's files, before it
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        last = "it did not respond"
        is_compiling = False
        while time.monotonic() < deadline:
            if self.wait(_POLL_S):
                raise LauncherError("stopped while starting")
            if not self._started.is_set():
                continue
            try:
                with _DIRECT.open(f"{self.url}/readyz", timeout=5):
                    self._has_been_ready = True
                    return
            except urllib.error.HTTPError as error:
                last = error.read(2000).decode(errors="replace")
                if '"kernels"' not in last:
                    continue
                deadline = time.monotonic() + _READY_S  # compiling ends, even if it fails
                if not is_compiling and needs_compiling(self._data_dir):
                    is_compiling = True
                    self._output.say(
                        "compiling kernels (once per machine and version); completions and jobs wait for it."
                        f" The console is on {self.url}"
                    )
            except OSError as error:
                last = str(error)
        raise LauncherError(
            f"the API is not ready after {_READY_S:.0f} s ({last}); see the logs in {self._data_dir / 'logs'}"
        )


def main() -> int:
    """Run the stack until Ctrl-C, SIGTERM or SIGHUP; return the exit status."""
    settings = LauncherSettings.load()
    say = Output(settings.log_format).say
    interrupt = _Interrupt(say)
    handle((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), interrupt)
    try:
        say(f"starting; data in {settings.data_dir.resolve()}")
        with Stack(settings) as stack:
            say(f"ready on {stack.url} (Ctrl-C stops it; logs in {settings.data_dir / 'logs'})")
            stack.wait()
    except LauncherError as error:
        say(str(error), level="ERROR")
        return 1
    except KeyboardInterrupt:
        say("stopped")
    return 0


class _Interrupt:
    """A signal handler: the first signal stops the stack in order, the second at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._is_stopping = False

    def __call__(self, _number: int, _frame: object) -> None:
        if self._is_stopping:
            os._exit(1)  # the kernel kills the children
        self._is_stopping = True
        self._say("stopping; press Ctrl-C again to stop at once")
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
