"""Workers that begin at once: forked from a process that has loaded libraries and kernels."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.worker.preloaded"])


LEASE_S = 600
"""A child that gets little of a busy processor keeps its job; tests end leases themselves."""

COLD = f"""
from nextchar.store import live; live.LEASE_S = {LEASE_S}
from nextchar.worker import main; main.main()
"""
"""The same in a process that has loaded nothing."""

WITHOUT_WARM_UP = "from nextchar.worker import main; main.warm_up = lambda *_, **__: None"
"""Before `COLD`: kernels are compiled when a job uses them, and those that it does not use are not."""


class WarmWorker:
    """`worker.main` in a process, to be used as a Popen. The first one starts the process that is forked."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = _CONTEXT.Process(target=_work, args=(dict(environment),))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("nextchar.worker.main", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from nextchar.store import live
    from nextchar.worker import main

    live.LEASE_S = LEASE_S
    main.main()
