"""Waiting for a condition, and looking whether a process lives."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Return once the condition holds; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
