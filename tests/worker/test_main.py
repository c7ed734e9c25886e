"""What the worker does before it takes its first job."""

from pathlib import Path

import pytest

from worker import main


def test_kernels_are_compiled_before_a_job_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[object] = []

    class Worker:
        def work(self, **_: object) -> None:
            done.append("works")

    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(main, "warm_up", done.append)
    monkeypatch.setattr(main, "make_worker", lambda _: Worker())
    main.main()
    assert done == [tmp_path, "works"]
