"""What the worker does before it takes its first job."""

import pytest

from worker import main, warm_up


def test_kernels_are_compiled_before_a_job_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Worker:
        def work(self, **_: object) -> None:
            done.append("works")

    monkeypatch.setattr(warm_up, "in_child_process", lambda: done.append("kernels are compiled"))
    monkeypatch.setattr(main, "make_worker", lambda _: Worker())
    main.main()
    assert done == ["kernels are compiled", "works"]


def test_a_compiler_that_crashes_does_not_keep_the_worker_from_working(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_up.sys, "executable", "/bin/false")
    warm_up.in_child_process()
    assert "kernels could not be compiled in advance (status 1)" in caplog.text
