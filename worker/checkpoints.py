"""Checkpoints: everything that a training run needs to continue exactly where it stopped.

    checkpoints/<job id>/<step>.npz   SHA-256 of the rest, then a NumPy archive (never unpickled)

The newest two are kept, and the one to restore if the loss diverges; none of a step later than the one saved
last, because that is from before a rollback. A damaged checkpoint is skipped with a message, and the one
before it is used. A large one is in an unnamed file in the scratch folder while it is written and read, so
that memory holds its arrays only. The file disappears with the process.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.text.array_file import read_arrays
from nextchar.store.blobs import Blobs, domain_errors, temporary_file

_DIGEST_BYTES = 32
_KEEP = 2
_IN_MEMORY_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20
_META = "meta"
_ROLLBACK = "safe"  # the key of the rollback step in the metadata
_FIRST_INTERVAL_S = 1.0  # early checkpoints are frequent, so that a process that is killed soon loses little
MAX_SAVING_FRACTION = 0.1
"""Of the time, while intervals are short, or while saving fails."""


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: named arrays, and JSON values.

    `rollback` is the checkpoint to restore if the loss diverges; None: this one.
    """

    step: int
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]
    rollback: "Checkpoint | None" = None

    @property
    def rollback_step(self) -> int:
        """The step of the checkpoint to restore if the loss diverges."""
        return int(self.meta.get(_ROLLBACK, self.step))


class CheckpointSaver:
    """Decides when a run saves a checkpoint, and which one it restores if the loss diverges.

    Args:
        save: called with each checkpoint.
        every_s: the interval; the first ones are shorter, each twice the one before.
        clock: seconds from any origin.
    """

    def __init__(
        self, save: Callable[[Checkpoint], None], every_s: float, clock: Callable[[], float]
    ) -> None:
        self.rollback: Checkpoint
        self._save, self._every_s, self._clock = save, every_s, clock
        self._interval_s = min(_FIRST_INTERVAL_S, every_s)
        self._saved_at_s = clock()

    def is_due(self) -> bool:
        """Return whether the interval since the last checkpoint is over."""
        return self._clock() - self._saved_at_s > self._interval_s

    def save(self, checkpoint: Checkpoint, *, is_rollback: bool) -> None:
        """Save a checkpoint; with `is_rollback` it is restored from now on if the loss diverges."""
        if is_rollback:
            self.rollback = checkpoint
        checkpoint.meta[_ROLLBACK] = self.rollback.step
        began = self._clock()
        self._save(checkpoint)
        self._saved_at_s = self._clock()
        longer_s = max(2 * self._interval_s, (self._saved_at_s - began) / MAX_SAVING_FRACTION)
        self._interval_s = min(longer_s, self._every_s)


class Checkpoints:
    """The checkpoints of one job in storage."""

    def __init__(self, blobs: Blobs, job_id: str, *, scratch: Path | None = None) -> None:
        """Keep checkpoints in `blobs`. `scratch`: by default the system's temporary folder."""
        self._blobs, self._scratch = blobs, scratch
        self._folder = f"checkpoints/{job_id}"
        self.newest_bytes = 0  # size of the last checkpoint that was saved, loaded, or could not be saved

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and delete those of later steps and old ones. Raises StorageFull, Unavailable.

        Checkpoints of later steps are from before a rollback. They are deleted once this one is written. If
        the process is killed in between, `load` returns the latest of them: the run then continues from
        there, diverges as before, and rolls back again.
        """
        meta = np.frombuffer(json.dumps(checkpoint.meta).encode(), np.uint8)
        self.newest_bytes = sum(array.nbytes for array in checkpoint.arrays.values())
        with domain_errors(), self._file(self.newest_bytes) as file:
            file.write(bytes(_DIGEST_BYTES))
            np.savez(file, allow_pickle=False, **{_META: meta}, **checkpoint.arrays)
            self.newest_bytes = file.tell()
            digest = _digest(file)
            file.seek(0)
            file.write(digest)
            file.flush()
            self._blobs.write(self._path(checkpoint.step), _contents(file))
        saved, rollback = self._path(checkpoint.step), self._path(checkpoint.rollback_step)
        paths = self._blobs.paths(self._folder)
        self._blobs.delete(*(p for p in paths if p > saved))  # first: they may roll back to an old one
        old = [p for p in paths if p <= saved][:-_KEEP]
        self._blobs.delete(*(p for p in old if p != rollback))

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest undamaged checkpoint, if any, and a message for each damaged one.

        Raises:
            Unavailable: the storage does not work; the checkpoints may be fine.
        """
        problems: list[str] = []
        for path in reversed(self._blobs.paths(self._folder)):
            try:
                return self._with_rollback(self._read(path)), problems
            except (ValueError, KeyError, FileNotFoundError) as error:
                step = int(Path(path).stem)
                problems.append(f"the checkpoint of step {step} is damaged ({error}); using the one before")
                self._blobs.delete(path)
        return None, problems

    def _with_rollback(self, checkpoint: Checkpoint) -> Checkpoint:
        step = checkpoint.rollback_step
        try:
            rollback = self._read(self._path(step)) if step < checkpoint.step else None
        except (ValueError, KeyError, FileNotFoundError):
            rollback = None  # this checkpoint itself will do until the next evaluation
        return replace(checkpoint, rollback=rollback)

    def _read(self, path: str) -> Checkpoint:
        with domain_errors():
            chunks = self._blobs.stream(path)
            if self._scratch:
                self._scratch.mkdir(parents=True, exist_ok=True)
            scratch = str(self._scratch) if self._scratch else None
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, dir=scratch) as file:
                for chunk in chunks:
                    file.write(chunk)
                self.newest_bytes = file.tell()
                return _parse(file)

    def _file(self, size: int) -> IO[bytes]:
        """Open a file for a checkpoint of about `size` bytes, in memory if it is small."""
        return io.BytesIO() if size <= _IN_MEMORY_BYTES else temporary_file(self._scratch)

    def _path(self, step: int) -> str:
        return f"{self._folder}/{step:010d}.npz"

    def delete(self) -> None:
        """Delete all checkpoints of the job."""
        self._blobs.delete(*self._blobs.paths(self._folder))


def _parse(file: IO[bytes]) -> Checkpoint:
    computed = _digest(file)
    size = file.tell()
    file.seek(0)
    if file.read(_DIGEST_BYTES) != computed:
        raise ValueError("its hash differs")
    arrays = read_arrays(file, max_bytes=size)
    meta = json.loads(arrays.pop(_META).tobytes())
    if not isinstance(meta, dict) or not isinstance(meta.get("step"), int):
        raise ValueError("its metadata is incomplete")
    return Checkpoint(step=meta["step"], arrays=arrays, meta=meta)


def _contents(file: IO[bytes]) -> bytes | Path:
    """Return the contents of an open file, or if it is not in memory a path by which it can be read."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # on macOS the path shares the position
    return Path(f"/dev/fd/{file.fileno()}")


def _digest(file: IO[bytes]) -> bytes:
    """Return the SHA-256 of what follows the place of the digest in a file."""
    digest = hashlib.sha256()
    file.seek(_DIGEST_BYTES)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.digest()
