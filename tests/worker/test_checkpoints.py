from pathlib import Path

import numpy as np
import pytest

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Jobs
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import checkpoints as checkpoints_module
from nextchar.worker.checkpoints import Checkpoint, Checkpoints, CheckpointSaver
from tests.store.refusing import Refusing, unavailable


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
    assert loaded.rollback is None and loaded.rollback_step == 7, "it is restored itself"
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


def _save_with_rollback(checkpoints: Checkpoints, step: int, *, rollback: int) -> None:
    checkpoint = _checkpoint(step)
    checkpoint.meta["safe"] = rollback
    checkpoints.save(checkpoint)


def test_checkpoints_from_before_a_rollback_are_deleted_by_the_next_save() -> None:
    blobs, checkpoints = _saved(60, 80)
    for step in (100, 140, 150, 120):
        _save_with_rollback(checkpoints, step, rollback=100)
    assert [int(path[-9:-4]) for path in blobs.paths("checkpoints")] == [100, 120]
    loaded, problems = checkpoints.load()
    assert loaded and loaded.rollback and (loaded.step, loaded.rollback.step, problems) == (120, 100, [])
    _save_with_rollback(checkpoints, 100, rollback=100)
    assert Jobs(blobs).checkpoint_step("job_1") == 100


def test_a_process_killed_before_it_deletes_leaves_what_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blobs, checkpoints = _saved()
    for step in (100, 140, 150):
        _save_with_rollback(checkpoints, step, rollback=100)
    deleted: list[str] = []

    def killed(_: Blobs, *paths: str) -> None:
        deleted.extend(paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(blobs), "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            _save_with_rollback(checkpoints, 120, rollback=120)
    assert [int(path[-9:-4]) for path in deleted] == [140, 150], "before the one that these roll back to"
    loaded, _ = checkpoints.load()
    assert loaded and loaded.rollback and (loaded.step, loaded.rollback.step) == (150, 100)


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
    written: list[tuple[type, list[Path]]] = []
    write = blobs.write

    def record(path: str, data: bytes | Path) -> None:
        written.append((type(data), list(scratch.iterdir())))
        write(path, data)

    monkeypatch.setattr(blobs, "write", record)
    checkpoints = Checkpoints(blobs, "job_1", scratch=scratch)
    array = np.arange(10_000, dtype=np.float32)
    checkpoints.save(Checkpoint(3, {"weight/0": array}, {"step": 3}))
    assert written == [(type(scratch), [])], "a process that is killed now leaves no file"
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


@pytest.mark.parametrize("is_large", [False, True])
def test_the_scratch_folder_is_made_if_a_checkpoint_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    array = np.zeros(1000, np.float32)
    monkeypatch.setattr(checkpoints_module, "_IN_MEMORY_BYTES", array.nbytes - is_large)
    blobs, scratch = open_blobs("memory:///"), tmp_path / "not" / "made"
    checkpoints = Checkpoints(blobs, "job_1", scratch=scratch)
    checkpoints.save(Checkpoint(1, {"weight/0": array}, {"step": 1}))
    assert scratch.exists() == is_large, "what is small needs none"
    assert checkpoints.load()[0] is not None
    assert list(scratch.iterdir()) == []


def test_objects_are_not_pickled() -> None:
    _, checkpoints = _saved()
    with pytest.raises(ValueError, match=r"Object arrays cannot be saved"):
        checkpoints.save(Checkpoint(1, {"weight/0": np.array([object()])}, {"step": 1}))
    assert checkpoints.load() == (None, [])


class Saving:
    """A saver with a clock of its own; saving takes `takes_s`."""

    def __init__(self, every_s: float) -> None:
        self.now_s, self.takes_s = 50.0, 0.0
        self.saved: list[tuple[int, int]] = []  # (step, step of the rollback)
        self.saver = CheckpointSaver(self._save, every_s, lambda: self.now_s)

    def _save(self, checkpoint: Checkpoint) -> None:
        self.now_s += self.takes_s
        self.saved.append((checkpoint.step, checkpoint.rollback_step))

    def interval_s(self) -> float:
        """Return after how many eighths of a second the next one is due."""
        began = self.now_s
        while not self.saver.is_due():
            self.now_s += 0.125
        return self.now_s - began - 0.125

    def save(self, step: int, *, is_rollback: bool = False) -> None:
        self.saver.save(Checkpoint(step, {}, {"step": step}), is_rollback=is_rollback)


def test_saving_takes_no_more_than_a_tenth_of_the_time_while_intervals_are_short() -> None:
    saving = Saving(100.0)
    saving.takes_s = 0.5
    saving.save(1, is_rollback=True)
    assert saving.interval_s() == 5
    saving.save(2)
    assert saving.interval_s() == 10
    saving.takes_s = 30
    saving.save(3)
    assert saving.interval_s() == 100, "the setting"
