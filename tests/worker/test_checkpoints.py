import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import Unavailable
from store.blobs import Blobs
from store.jobs import Jobs
from store.open_blobs import open_blobs
from tests.store.refusing import Refusing, unavailable
from worker import checkpoints as checkpoints_module
from worker.checkpoints import Checkpoint, Checkpoints


def _checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"weight/0": np.full((2, 3), step, np.float32)}, {"step": step, "run": {"k": 4}})


def _saved(*steps: int) -> tuple[Blobs, Checkpoints]:
    blobs = open_blobs("memory:///")
    checkpoints = Checkpoints(blobs, "job_1")
    for step in steps:
        checkpoints.save(_checkpoint(step))
    return blobs, checkpoints


def test_a_checkpoint_is_loaded_as_saved() -> None:
    _, checkpoints = _saved(7)
    loaded, problems = checkpoints.load()
    assert loaded is not None
    assert problems == []
    assert (loaded.step, loaded.meta) == (7, {"step": 7, "run": {"k": 4}})
    np.testing.assert_array_equal(loaded.arrays["weight/0"], np.full((2, 3), 7, np.float32))


def test_only_the_newest_two_are_kept() -> None:
    blobs, _ = _saved(1, 20, 300)
    assert blobs.paths("checkpoints") == [f"checkpoints/job_1/{n:010d}.npz" for n in (20, 300)]
    assert Jobs(blobs).checkpoint_step("job_1") == 300


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_with_a_message() -> None:
    blobs, checkpoints = _saved(1, 2)
    path = "checkpoints/job_1/0000000002.npz"
    data = bytearray(blobs.read(path))
    data[len(data) // 2] ^= 1
    blobs.write(path, bytes(data))
    loaded, problems = checkpoints.load()
    assert loaded is not None
    assert loaded.step == 1
    assert len(problems) == 1
    assert "step 2 is damaged" in problems[0]


def test_a_cut_off_checkpoint_is_passed_over() -> None:
    blobs, checkpoints = _saved(1)
    path = "checkpoints/job_1/0000000001.npz"
    blobs.write(path, blobs.read(path)[:10])
    loaded, problems = checkpoints.load()
    assert loaded is None
    assert len(problems) == 1


@pytest.mark.parametrize("meta", [{"run": {}}, {"step": "1"}])
def test_a_checkpoint_that_does_not_name_its_step_is_damaged(meta: dict[str, Any]) -> None:
    _, checkpoints = _saved(1)
    checkpoints.save(Checkpoint(2, {}, meta=meta))
    loaded, problems = checkpoints.load()
    assert loaded is not None and loaded.step == 1
    assert len(problems) == 1
    assert "step 2 is damaged (its metadata is incomplete)" in problems[0]


def test_without_checkpoints_there_is_nothing_to_load() -> None:
    blobs, checkpoints = _saved()
    assert checkpoints.load() == (None, [])
    assert Jobs(blobs).checkpoint_step("job_1") is None


def test_the_rollback_checkpoint_is_kept_and_loaded() -> None:
    blobs = open_blobs("memory:///")
    checkpoints = Checkpoints(blobs, "job_1")
    for step in (1, 2, 3, 4):
        checkpoint = _checkpoint(step)
        checkpoint.meta["safe"] = 1
        checkpoints.save(checkpoint)
    assert [int(path[-9:-4]) for path in blobs.paths("checkpoints")] == [1, 3, 4]
    loaded, _ = checkpoints.load()
    assert loaded and loaded.rollback and loaded.rollback.step == 1
    blobs.write("checkpoints/job_1/0000000001.npz", b"damaged")
    loaded, problems = checkpoints.load()
    assert loaded and loaded.rollback is None and problems == []


def test_storage_that_does_not_answer_damages_no_checkpoint() -> None:
    blobs, _ = _saved(1, 2)
    refusing = Refusing(blobs, read=("checkpoints",), error=unavailable)
    with pytest.raises(Unavailable):
        Checkpoints(refusing, "job_1").load()
    assert len(blobs.paths("checkpoints")) == 2


def test_a_large_checkpoint_is_written_and_read_through_the_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints_module, "_IN_MEMORY_BYTES", 1000)
    scratch, blobs = tmp_path / "scratch", open_blobs(f"{tmp_path.as_uri()}/store")
    scratch.mkdir()
    (scratch / "checkpoint-of-a-killed-process").write_bytes(b"half")
    os.utime(scratch / "checkpoint-of-a-killed-process", (0, 0))
    written: list[object] = []
    write = type(blobs).write
    monkeypatch.setattr(
        type(blobs), "write", lambda self, path, data: (written.append(data), write(self, path, data))[1]
    )
    checkpoints = Checkpoints(blobs, "job_1", scratch=scratch)
    array = np.arange(10_000, dtype=np.float32)
    checkpoints.save(Checkpoint(3, {"weight/0": array}, {"step": 3}))
    assert [type(data) for data in written] == [type(scratch)]
    assert list(scratch.iterdir()) == []
    size = checkpoints.newest_bytes
    assert size == (tmp_path / "store/checkpoints/job_1/0000000003.npz").stat().st_size
    loaded, problems = Checkpoints(blobs, "job_1", scratch=scratch).load()
    assert loaded is not None and problems == []
    np.testing.assert_array_equal(loaded.arrays["weight/0"], array)
    scratch.rmdir()
    scratch.write_bytes(b"")  # a scratch folder that does not work
    with pytest.raises(Unavailable):
        checkpoints.save(Checkpoint(4, {"weight/0": array}, {"step": 4}))
    assert checkpoints.newest_bytes == array.nbytes
