"""Reads that hang do not hold their callers, and not one thread each."""

import threading

import pytest

from nextchar.app.operations.metrics import BoundedRead


def test_callers_of_a_read_that_hangs_time_out_and_share_one_thread() -> None:
    may_end, calls = threading.Event(), []

    def hang() -> str:
        calls.append(1)
        may_end.wait()
        return "done"

    read = BoundedRead(hang, 0.01)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            read()
    assert len(calls) == 1
    may_end.set()
    patient = BoundedRead(hang, 5)
    assert patient() == "done"


def test_a_read_whose_thread_cannot_start_is_tried_again_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    read = BoundedRead(lambda: "value", 5)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            read()
    assert read() == "value"
