"""The whole service on one machine: an embedded Valkey, the API and one worker, until told to stop.

    python -m launcher.stack          what `make serve` runs
    with Stack(settings) as stack:    what the demo and the end-to-end tests use

Each part is a child process that cannot outlive us. One that dies is started again after a pause that
doubles; one that keeps dying, or that says its settings are wrong, stops everything and shows the end of
its log. The parts write to `<data>/logs/<part>.log`; their warnings are repeated on the terminal.
Knows the parts as commands and their settings, nothing of what they do.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from launcher.ports import address_to_reach, free_port, require_free
from launcher.processes import LauncherError, last_lines, prepare_log, start_bound, stop
from launcher.settings import LauncherSettings
from launcher.valkey import EmbeddedValkey

_ROOT = Path(__file__).resolve().parent.parent
_POLL_S = 0.1
_READY_S = 90.0  # the first start on a cold disk reads a gigabyte of TensorFlow
_API_STOP_S = 10.0
_MAX_DEATHS = 5  # within _DEATHS_WINDOW_S: a crash loop
_DEATHS_WINDOW_S = 60.0
_FIRST_PAUSE_S = 0.5
_WRONG_SETTING = 2  # the exit status of a part whose settings are wrong; no restart mends that
# The API is on this machine: no proxy, whatever the environment says.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# TensorFlow's logging begins with a warning about itself.
_WARNING = re.compile(
    r"^(?!WARNING: All log messages before absl).*\b(WARNING|ERROR|CRITICAL)\b|^Traceback |^nextchar: "
)


class _Part:
    """One command that is kept running, its log, and when it died."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False  # as far as we have noticed
        self._deaths: list[float] = []
        self._start_at = 0.0
        prepare_log(log)
        log.touch()
        self._unread: IO[bytes] = log.open("rb")
        self._unread.seek(0, os.SEEK_END)  # what earlier runs wrote has been shown

    @property
    def pid(self) -> int:
        """The process id of the newest start."""
        assert self._process is not None, "not started"
        return self._process.pid

    def keep_running(self) -> None:
        """Start the process if it is not there and its pause is over. Raises LauncherError if hopeless."""
        now = time.monotonic()
        if self._is_up and self._process is not None and self._process.poll() is not None:
            self._is_up = False
            self._note_death(self._process.returncode, now)
        if not self._is_up and now >= self._start_at:
            self._process = start_bound(self._command, log=self.log, environment=self._environment)
            self._is_up = True

    def stop(self, grace_s: float) -> None:
        """End the process, by force after `grace_s` seconds."""
        if self._process is not None:
            stop(self._process, grace_s=grace_s)

    def new_warnings(self) -> list[str]:
        """Return the lines of the log that came since the last call and are worth showing."""
        lines = []
        while line := self._unread.readline():
            if not line.endswith(b"\n"):  # half a line; the rest comes with the next call
                self._unread.seek(-len(line), os.SEEK_CUR)
                break
            lines.append(line.decode(errors="replace").rstrip())
        return [line for line in lines if _WARNING.search(line)]

    def close_log(self) -> None:
        """Read no more of the log."""
        self._unread.close()

    def _note_death(self, status: int, now: float) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._deaths = [t for t in self._deaths if now - t < _DEATHS_WINDOW_S] + [now]
        if status == _WRONG_SETTING or len(self._deaths) >= _MAX_DEATHS:
            often = "" if status == _WRONG_SETTING else f", {_MAX_DEATHS} times in {_DEATHS_WINDOW_S:.0f} s"
            raise LauncherError(
                f"the {self.name} {how}{often}; the end of {self.log}:\n{last_lines(self.log)}"
            )
        pause_s = _FIRST_PAUSE_S * 2 ** (len(self._deaths) - 1)
        _say(f"the {self.name} {how}; starting it again in {pause_s:g} s")
        self._start_at = now + pause_s


class Stack:
    """Everything running between `with` and its end.

    `settings.port` 0 takes a free port. `environment` are variables for the API and the worker on top of
    ours. Entering waits until the API is ready; it raises LauncherError if that does not come about.
    """

    def __init__(self, settings: LauncherSettings, *, environment: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._extra = dict(environment or {})
        self._data_dir = settings.data_dir.resolve()
        self._valkey: EmbeddedValkey | None = None
        self._api: _Part | None = None
        self._worker: _Part | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        # One thread starts every child, for a child is killed when the thread that started it ends.
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
        """Start everything and wait until the API says that it is ready."""
        self._run_done = self._thread.submit(self._run)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; the worker has `stop_grace_s` seconds to write a checkpoint."""
        self.stop()

    def stop(self) -> None:
        """Stop everything in the order worker, API, Valkey and wait until it has. Safe to call again."""
        self._stopping.set()
        self._thread.shutdown()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait while everything runs; return False once `timeout_s` is over, True once it is stopped.

        Raises LauncherError if a part could not be kept running.
        """
        assert self._run_done is not None, "not started"
        if not wait([self._run_done], timeout_s).done:
            return False
        self._run_done.result()
        return True

    def _run(self) -> None:
        if self._settings.given_redis_url:
            self._keep_running()
            return
        with EmbeddedValkey(self._data_dir, max_bytes=self._settings.valkey_max_bytes) as valkey:
            self._valkey, self.redis_url = valkey, valkey.url
            self._keep_running()

    def _keep_running(self) -> None:
        host, port = self._settings.host, self._settings.port
        if port == 0:
            port = free_port(host)
        else:
            require_free(host, port)
        self.url = f"http://{address_to_reach(host, port)}"
        environment = self._environment(port)
        parts = [
            _Part(name, [sys.executable, "-m", module], environment, self._data_dir / "logs" / log)
            for name, module, log in (
                ("worker", "worker.main", "worker.log"),
                ("API", "app.main", "api.log"),
            )
        ]
        self._worker, self._api = parts
        try:
            while not self._stopping.is_set():
                self._keep_valkey_running()
                for part in parts:
                    part.keep_running()
                self._started.set()
                _show_warnings(parts)
                self._stopping.wait(_POLL_S)
        finally:
            self._worker.stop(self._settings.stop_grace_s)
            self._api.stop(_API_STOP_S)
            _show_warnings(parts)
            for part in parts:
                part.close_log()

    def _keep_valkey_running(self) -> None:
        if self._valkey is not None and not self._valkey.is_running:
            _say("the embedded Valkey died; starting it again")
            self._valkey.start()

    def _environment(self, port: int) -> dict[str, str]:
        path = os.pathsep.join(p for p in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if p)
        given = self._settings.model_dump(mode="json", include=self._settings.model_fields_set)
        return {
            **os.environ,
            **{f"NEXTCHAR_{name.upper()}": str(v) for name, v in given.items() if v is not None},
            "NEXTCHAR_DATA_DIR": str(self._data_dir),
            "NEXTCHAR_REDIS_URL": self.redis_url,
            "NEXTCHAR_PORT": str(port),
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        last = "it did not answer"
        while time.monotonic() < deadline:
            if self.wait(_POLL_S):
                raise LauncherError("stopped while starting")
            if not self._started.is_set():
                continue
            try:
                with _DIRECT.open(f"{self.url}/readyz", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                last = error.read(2000).decode(errors="replace")
            except OSError as error:
                last = str(error)
        raise LauncherError(
            f"the API is not ready after {_READY_S:.0f} s ({last}); the logs are in {self._data_dir / 'logs'}"
        )


def main() -> int:
    """Run the stack until Ctrl-C, SIGTERM or SIGHUP; return the exit status."""
    settings = LauncherSettings.load()
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        _say(f"starting; data in {settings.data_dir.resolve()}")
        with Stack(settings) as stack:
            _say(f"ready on {stack.url} (Ctrl-C stops it; logs in {settings.data_dir / 'logs'})")
            stack.wait()
    except LauncherError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("stopped")
    return 0


class _Interrupt:
    """A signal handler: at first stop in good order, at the second time at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, _number: int, _frame: object) -> None:
        if self._asked:
            os._exit(1)  # the kernel kills the children
        self._asked = True
        _say("stopping; once more to stop at once")
        raise KeyboardInterrupt


def _show_warnings(parts: list[_Part]) -> None:
    for part in parts:
        for line in part.new_warnings():
            _say(line, who=part.name)


def _say(text: str, *, who: str = "nextchar") -> None:
    print(f"{who}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
