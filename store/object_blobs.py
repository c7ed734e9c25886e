"""Blobs in an object store by URL, through obstore: S3 and similar stores, or memory for tests."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from store.blobs import Blobs, domain_errors


class ObjectBlobs(Blobs):
    """The objects in one store. What the store acknowledges is durable."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the storage at `url`."""
        return cls(from_url(url))

    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""
        with domain_errors(BaseError):
            return bytes(obstore.get(self._store, path).bytes())

    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """Yield the object in chunks of `chunk_bytes` or more. Raises FileNotFoundError at once."""
        with domain_errors(BaseError):
            return _chunks(obstore.get(self._store, path).stream(min_chunk_size=chunk_bytes))

    def write(self, path: str, data: bytes | Path) -> None:
        """Write `data`, or the contents of a local file, to `path`, replacing any object there."""
        with domain_errors((BaseError, OSError)):
            obstore.put(self._store, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write `data` to `path` unless an object exists there; return whether it was written."""
        with domain_errors((BaseError, OSError)):
            try:
                obstore.put(self._store, path, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def copy(self, source: str, path: str) -> bool:
        """Copy the object at `source` to `path` unless one exists there; return whether it was copied."""
        return self.create(path, self.read(source))

    def exists(self, path: str) -> bool:
        """Return whether there is an object at `path`."""
        with contextlib.suppress(FileNotFoundError), domain_errors(BaseError):
            obstore.head(self._store, path)
            return True
        return False

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix`, sorted."""
        with domain_errors(BaseError):
            return sorted(o["path"] for chunk in obstore.list(self._store, prefix) for o in chunk)

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, sorted."""
        with domain_errors(BaseError):
            prefixes = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in prefixes)

    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError), domain_errors(BaseError):
                obstore.delete(self._store, path)


def _chunks(chunks: Iterable[Any]) -> Iterator[bytes]:
    with domain_errors(BaseError):  # the connection broke
        for chunk in chunks:
            yield bytes(chunk)
