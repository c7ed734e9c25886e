"""Copies of model files on the local disk, so that a host downloads each from the object store once.

    <data>/model_files/<SHA-256>        one file of a model; its name is the hash of its contents
    <data>/model_files/<SHA-256>.part   one being downloaded; the process that does so holds a lock on it

A copy is checked against its name whenever it is read, and downloaded again if it is damaged. Those that have
not been read for the longest time are deleted when all together exceed a limit.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from nextchar.models.saved_model import Card, SavedModel
from nextchar.store.blobs import Blobs, read_limited
from nextchar.store.open_blobs import is_object_store
from nextchar.store.settings import StoreSettings

log = logging.getLogger("nextchar.store")

_PART = ".part"
_STALE_S = 86400.0  # longer than any download takes


class ModelFileCache:
    """The copies in one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    @classmethod
    def of(cls, settings: StoreSettings) -> Self | None:
        """Return the cache of these settings; None if the storage is a folder, or the cache is off."""
        if not (is_object_store(settings.blobs_url) and settings.model_file_cache_bytes):
            return None
        return cls(settings.data_dir / "model_files", max_bytes=settings.model_file_cache_bytes)

    def read(self, sha256: str, download: Callable[[], Iterator[bytes]]) -> bytes:
        """Return the contents of the file with this hash, from the disk if it is there.

        Of several callers that want a file at the same time, one downloads it. If what is downloaded has
        another hash, it is returned and not kept. Without a disk that works nothing is kept.

        Raises what `download` raises, such as FileNotFoundError.
        """
        path = self._folder / sha256
        if (data := self._copy(path)) is not None:
            return data
        part = path.with_name(sha256 + _PART)
        with self._locked(part):
            if (data := self._copy(path)) is not None:  # downloaded in the meantime
                with contextlib.suppress(OSError):
                    part.unlink()  # it was created again for the lock
                return data
            chunks = download()
            try:
                with part.open("wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                data = part.read_bytes()
                if _sha256(data) == sha256 and len(data) <= self._max_bytes:
                    part.replace(path)
                    self._evict()
                else:
                    part.unlink()
                    if _sha256(data) != sha256:  # perhaps another process wrote to the file, too
                        data = b"".join(download())
            except OSError as error:  # of the disk: errors of the storage are others, once it is opened
                log.warning("the copy of a model file cannot be kept in %s: %s", self._folder, error)
                with contextlib.suppress(OSError):
                    part.unlink()
                return b"".join(download())
            return data

    def _copy(self, path: Path) -> bytes | None:
        """Return the contents of an undamaged copy; delete a damaged one."""
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if _sha256(data) == path.name:
                os.utime(path)  # for `_evict`
                return data
            log.warning("the copy %s of a model file is damaged; downloading it again", path)
            path.unlink()
        return None

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold the lock of a file; if the disk does not work, hold none."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _evict(self) -> None:
        """Delete the copies that have not been read for the longest time, until the others fit."""
        entries = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # deleted by another process
                status = path.stat()
                if path.suffix != _PART:
                    entries.append((status.st_mtime, status.st_size, path))
                elif time.time() - status.st_mtime > _STALE_S:
                    path.unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


class StoredFiles:
    """The files of saved models in a storage; those that are read are kept in a cache, if there is one."""

    def __init__(self, blobs: Blobs, cache: ModelFileCache | None) -> None:
        self._blobs, self._cache = blobs, cache

    def saved(self, card: Card, folder: str) -> SavedModel:
        """Return the model with this card, whose files are in `folder`."""

        def read(name: str) -> bytes:
            entry = card.files[name]

            def download() -> Iterator[bytes]:
                return read_limited(self._blobs.stream(f"{folder}/{name}"), entry.bytes)

            return self._cache.read(entry.sha256, download) if self._cache else b"".join(download())

        def map_file(name: str) -> bytes | memoryview:
            """Return the contents of a file; mapped, if the storage is a folder."""
            return read(name) if self._cache else self._blobs.map(f"{folder}/{name}")

        return SavedModel(card, read, map_file)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
