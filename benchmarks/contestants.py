"""Contestants of a benchmark, each in its own process, which run in turns.

A library's threads and compiler flags affect its whole process, so every contestant gets a process. It
prepares (imports, compiles, warms up), waits on a socket, and runs on `go`. So turns can be interleaved, and
nothing else runs during a measurement. Contestants run on the CPU by default.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, busy_cpu_seconds
from nextchar.launcher.processes import last_lines, start_bound, stop

_MIN_NOTABLE_LOAD = 0.2  # cores

Turn = Callable[[float], dict[str, Any]]
"""Called with seconds, works for so long and returns what was found.

`prepared` adds how many cores other processes of the machine kept busy meanwhile, as
`cores_others_kept_busy`: libraries whose threads wait for each other suffer most from company.
"""


class ContestantDied(RuntimeError):
    """The process of a contestant ended; the message has the end of its log.

    `reason` is the signal that killed it, such as SIGILL for an instruction that the processor lacks; else
    the last line of the log: of a Python program that an exception ended, the exception.
    """

    def __init__(self, name: str, log: str, status: int = 1) -> None:
        """`status` is that of `subprocess`: negative for a signal."""
        super().__init__(f"{name} died; its log ends:\n{log}")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        self.reason = lines[-1] if lines else "its log is empty"
        if status < 0:
            self.reason = describe_kill(status)


@dataclass(frozen=True)
class Contestant:
    """A contestant.

    Args:
        name: in tables.
        module: in `benchmarks.peers`; its `prepare(**options)` returns a Turn.
        options: JSON values.
        environment: variables of its process.
        package: what must be installed, if that is not sure.
        gpu: whether it may see a GPU.
    """

    name: str
    module: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    gpu: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether its package is installed."""
        return not self.package or importlib.util.find_spec(self.package) is not None


@contextlib.contextmanager
def prepared(contestant: Contestant) -> Iterator[Turn]:
    """Start a contestant, wait until it is ready, and yield its turns; stop it afterwards.

    Raises:
        ContestantDied: it died, now or in a turn.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if contestant.gpu:
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # else the first process allocates all memory
    else:
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as open_ends:
        log = Path(folder) / "log"
        here, there = (open_ends.enter_context(end) for end in socket.socketpair())
        process = start_bound(
            [
                *(sys.executable, "-m", "benchmarks.peers"),
                *(str(there.fileno()), contestant.module, json.dumps(contestant.options)),
            ],
            log=log,
            environment={**environment, **contestant.environment},
            directory=ROOT,
            keep_open=[there.fileno()],
        )
        there.close()  # so that its end is seen as end of file
        try:
            channel = open_ends.enter_context(here.makefile("rw"))

            def answer() -> dict[str, Any]:
                with contextlib.suppress(ConnectionError):
                    if line := channel.readline():
                        return dict(json.loads(line))
                status = process.wait()
                raise ContestantDied(contestant.name, last_lines(log), status)

            def turn(seconds: float) -> dict[str, Any]:
                began, busy = time.perf_counter(), busy_cpu_seconds()
                with contextlib.suppress(ConnectionError):  # it died
                    channel.write(json.dumps({"go": seconds}) + "\n")
                    channel.flush()
                found = answer()
                others_s = max(0.0, busy_cpu_seconds() - busy - found.pop("cpu_seconds"))
                return found | {"cores_others_kept_busy": others_s / (time.perf_counter() - began)}

            answer()  # ready
            yield turn
        finally:
            stop(process, grace_s=2)


def describe_kill(status: int) -> str:
    """Return how a process ended with this negative status of `subprocess`."""
    return f"its process was killed by {signal.Signals(-status).name}"


def describe_other_load(cores: float) -> str:
    """Return a sentence on how many cores other processes used, with advice."""
    sentence = f"other processes kept {cores:.2f} cores busy meanwhile"
    if cores < _MIN_NOTABLE_LOAD or os.environ.get("OMP_WAIT_POLICY"):
        return sentence
    return (
        f"{sentence}; torch's threads wait for each other in a loop and suffer most from that:"
        " OMP_WAIT_POLICY=PASSIVE in the environment is fairer to them"
    )
