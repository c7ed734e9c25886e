"""Object storage by URL: S3 and its kin, and memory for tests. The only place that knows obstore."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from store.blobs import Blobs, translated


class ObjectBlobs(Blobs):
    """The objects in one store, which has what it has acknowledged on its disks."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the storage at `url`."""
        return cls(from_url(url))

    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except BaseError as error:
            raise translated(error) from error

    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """Yield the object in chunks of `chunk_bytes` or more. Raises FileNotFoundError at once."""
        try:
            chunks = obstore.get(self._store, path).stream(min_chunk_size=chunk_bytes)
        except BaseError as error:
            raise translated(error) from error
        return _translated(chunks)

    def write(self, path: str, data: bytes | Path) -> None:
        """Put `data`, or the contents of a local file, at `path`, replacing what is there."""
        try:
            obstore.put(self._store, path, data)
        except (BaseError, OSError) as error:
            raise translated(error) from error

    def create(self, path: str, data: bytes) -> bool:
        """Put `data` at `path` if nothing is there; return whether it was done."""
        try:
            obstore.put(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise translated(error) from error
        return True

    def copy(self, source: str, path: str) -> bool:
        """Put what is at `source` at `path` as well, if nothing is there; return whether it was done."""
        return self.create(path, self.read(source))

    def exists(self, path: str) -> bool:
        """Return whether something is at `path`."""
        try:
            obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise translated(error) from error
        return True

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix`, sorted."""
        try:
            return sorted(o["path"] for chunk in obstore.list(self._store, prefix) for o in chunk)
        except BaseError as error:
            raise translated(error) from error

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, sorted."""
        try:
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        except BaseError as error:
            raise translated(error) from error
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in found)

    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`."""
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                pass
            except BaseError as error:
                raise translated(error) from error


def _translated(chunks: Iterable[Any]) -> Iterator[bytes]:
    try:
        for chunk in chunks:
            yield bytes(chunk)
    except BaseError as error:  # the connection broke on the way
        raise translated(error) from error
