"""Checkpoints: everything a training run needs to go on as if it had never stopped.

    checkpoints/<job id>/<step>.npz   SHA-256 of the rest, then a NumPy archive (never unpickled)

The newest two are kept, and the one that a divergence of the newest would go back to. One that is damaged is
passed over for the one before, and said so.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.blobs import Blobs

_DIGEST = 32  # bytes
_KEEP = 2
_META = "meta"


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: named arrays, and plain values that travel as JSON.

    `safe` is the moment that a divergence goes back to, whose step is meta["safe"]; None: this one.
    """

    step: int
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]
    safe: "Checkpoint | None" = None


class Checkpoints:
    """The checkpoints of one job."""

    def __init__(self, blobs: Blobs, job_id: str) -> None:
        self._blobs = blobs
        self._folder = f"checkpoints/{job_id}"
        self.newest_bytes = 0  # of the newest checkpoint that was saved or loaded, or that could not be saved

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and drop those no longer needed. Raises StorageFull, Unavailable."""
        meta = np.frombuffer(json.dumps(checkpoint.meta).encode(), np.uint8)
        buffer = io.BytesIO(bytes(_DIGEST))  # which is filled in at last: of large networks every copy counts
        buffer.seek(_DIGEST)
        np.savez(buffer, allow_pickle=False, **{_META: meta}, **checkpoint.arrays)
        digest = hashlib.sha256(buffer.getbuffer()[_DIGEST:]).digest()
        buffer.seek(0)
        buffer.write(digest)
        self.newest_bytes = buffer.getbuffer().nbytes
        self._blobs.write(self._path(checkpoint.step), buffer.getvalue())
        safe = self._path(checkpoint.meta.get("safe", checkpoint.step))
        self._blobs.delete(*(p for p in self._blobs.paths(self._folder)[:-_KEEP] if p != safe))

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest whole checkpoint, if any, and a sentence for each damaged one passed over.

        Raises:
            Unavailable: the storage does not work, which says nothing about the checkpoints.
        """
        problems: list[str] = []
        for path in reversed(self._blobs.paths(self._folder)):
            try:
                data = self._blobs.read(path)
                self.newest_bytes = len(data)
                return self._with_safe(_parse(data)), problems
            except (ValueError, KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
                step = int(path.rsplit("/", 1)[-1].split(".")[0])
                problems.append(
                    f"the checkpoint of step {step} is damaged ({error}); going back to the one before"
                )
                self._blobs.delete(path)
        return None, problems

    def _with_safe(self, checkpoint: Checkpoint) -> Checkpoint:
        step = checkpoint.meta.get("safe", checkpoint.step)
        try:
            safe = _parse(self._blobs.read(self._path(step))) if step < checkpoint.step else None
        except (ValueError, KeyError, FileNotFoundError, zipfile.BadZipFile):
            safe = None  # as good as any: it matters only if the run diverges before its next evaluation
        return replace(checkpoint, safe=safe)

    def _path(self, step: int) -> str:
        return f"{self._folder}/{step:010d}.npz"

    def delete(self) -> None:
        """Delete them all: the job is over."""
        self._blobs.delete(*self._blobs.paths(self._folder))


def _parse(data: bytes) -> Checkpoint:
    if hashlib.sha256(memoryview(data)[_DIGEST:]).digest() != data[:_DIGEST]:
        raise ValueError("its hash differs")
    file = io.BytesIO(data)
    file.seek(_DIGEST)
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(arrays.pop(_META).tobytes())
    return Checkpoint(step=meta["step"], arrays=arrays, meta=meta)
