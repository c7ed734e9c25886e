import errno
import logging
import threading
from collections.abc import Callable

import pytest

from nextchar.store.background import LOG_EVERY_S, BackgroundLoop, ErrorLog
from tests.waiting import eventually


def wait_for(condition: Callable[[], bool]) -> None:
    eventually(condition, what="the condition")


def test_loop_survives_and_counts_every_exception() -> None:
    errors = [OSError(errno.EMFILE, "Too many open files"), MemoryError(), KeyError("x"), OSError()]
    rounds = 0
    succeeded = threading.Event()

    def run() -> None:
        nonlocal rounds
        rounds += 1
        if errors:
            raise errors.pop(0)
        succeeded.set()

    loop = BackgroundLoop("test", run, interval_s=0.001)
    loop.start()
    try:
        assert succeeded.wait(120)
        assert loop.status().errors == {"OSError": 2, "MemoryError": 1, "KeyError": 1}
        seen = rounds
        wait_for(lambda: rounds > seen)
    finally:
        loop.stop(timeout_s=10)


def test_ages_tell_a_loop_that_fails_from_one_that_hangs() -> None:
    now_s = 100.0
    fails, may_end, hangs = False, threading.Event(), threading.Event()
    may_end.set()

    def run() -> None:
        if not may_end.is_set():
            hangs.set()
            assert may_end.wait(120)
        if fails:
            raise OSError

    loop = BackgroundLoop("test", run, interval_s=0.001, clock=lambda: now_s)
    assert (loop.status().seconds_since_beat, loop.status().seconds_since_success) == (0, 0)
    loop.start()
    try:
        fails = True
        wait_for(lambda: bool(loop.status().errors))
        now_s = 150.0
        wait_for(lambda: loop.status().seconds_since_beat == 0)
        assert loop.status().seconds_since_success == 50

        may_end.clear()
        assert hangs.wait(120)
        now_s = 190.0
        assert loop.status().seconds_since_beat == 40
        assert loop.status().seconds_since_success == 90

        fails = False
        may_end.set()
        wait_for(lambda: loop.status().seconds_since_success == 0)
    finally:
        may_end.set()
        loop.stop(timeout_s=10)


def test_repeated_errors_are_logged_once_a_minute_with_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 1000.0
    errors = ErrorLog(logging.getLogger("nextchar.test"), clock=lambda: now_s)
    for _ in range(3):
        errors.add("reading failed", OSError(errno.EMFILE, "Too many open files"))
    errors.add("reading failed", KeyError("other"))
    now_s += LOG_EVERY_S - 0.5
    errors.add("reading failed", OSError(errno.EMFILE, "Too many open files"))
    now_s += 0.5
    errors.add("reading failed", OSError(errno.EMFILE, "Too many open files"))
    lines = [(record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    assert lines == [
        ("reading failed: OSError: [Errno 24] Too many open files", True),
        ("reading failed: KeyError: 'other'", True),
        ("reading failed: OSError: [Errno 24] Too many open files (5 times so far)", False),
    ]


def test_a_process_can_end_while_a_round_of_its_loops_runs() -> None:
    loop = BackgroundLoop("daemon of the test", lambda: None, interval_s=3600.0)
    with loop:
        [thread] = [one for one in threading.enumerate() if one.name == "daemon of the test"]
        assert thread.daemon
