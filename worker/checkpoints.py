"""Checkpoints: everything a training run needs to go on as if it had never stopped.

    checkpoints/<job id>/<step>.npz   SHA-256 of the rest, then a NumPy archive (never unpickled)

The newest two are kept. One that is damaged is passed over for the one before, and said so.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.blobs import Blobs

_KEEP = 2
_META = "meta"


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: named arrays, and plain values that travel as JSON."""

    step: int
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one job."""

    def __init__(self, blobs: Blobs, job_id: str) -> None:
        self._blobs = blobs
        self._folder = f"checkpoints/{job_id}"

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and drop those older than the one before it. Raises StorageFull, Unavailable."""
        buffer = io.BytesIO()
        meta = np.frombuffer(json.dumps(checkpoint.meta).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, **{_META: meta}, **checkpoint.arrays)
        payload = buffer.getvalue()
        path = f"{self._folder}/{checkpoint.step:010d}.npz"
        self._blobs.write(path, hashlib.sha256(payload).digest() + payload)
        self._blobs.delete(*self._blobs.paths(self._folder)[:-_KEEP])

    def newest_step(self) -> int | None:
        """Return the step of the newest checkpoint, without reading it."""
        paths = self._blobs.paths(self._folder)
        return int(paths[-1].rsplit("/", 1)[-1].split(".")[0]) if paths else None

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest whole checkpoint, if any, and a sentence for each damaged one passed over."""
        problems: list[str] = []
        for path in reversed(self._blobs.paths(self._folder)):
            try:
                return _parse(self._blobs.read(path)), problems
            except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
                step = int(path.rsplit("/", 1)[-1].split(".")[0])
                problems.append(
                    f"the checkpoint of step {step} is damaged ({error}); going back to the one before"
                )
                self._blobs.delete(path)
        return None, problems

    def delete(self) -> None:
        """Delete them all: the job is over."""
        self._blobs.delete(*self._blobs.paths(self._folder))


def _parse(data: bytes) -> Checkpoint:
    digest, payload = data[:32], data[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its hash differs")
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(arrays.pop(_META).tobytes())
    return Checkpoint(step=meta["step"], arrays=arrays, meta=meta)
