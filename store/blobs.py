"""Object storage by URL: a folder by default, S3 and its kin when told.

The only place that knows obstore. Every write is atomic: a reader sees the whole object or none.
`create` is the one primitive the records' guarantees rest on: of several writers, one wins.
"""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from models.errors import StorageFull, Unavailable


def open_blobs(url: str) -> "Blobs":
    """Return the storage at `url`: file:///folder (made if missing), memory:///, s3://bucket and its kin."""
    if url.startswith("file://"):
        return Blobs(LocalStore.from_url(url, automatic_cleanup=True, mkdir=True))
    return Blobs(from_url(url))


class Blobs:
    """Named byte strings. Paths are slash-separated and relative; they need no folders made."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

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
        return (bytes(chunk) for chunk in chunks)

    def write(self, path: str, data: bytes | Path) -> None:
        """Put `data`, or the contents of a local file, at `path`, replacing what is there.

        Raises:
            StorageFull: no room; what was at `path` before is still there.
            Unavailable: the storage does not answer or refuses.
        """
        try:
            obstore.put(self._store, path, data)
        except (BaseError, OSError) as error:
            raise translated(error) from error

    def create(self, path: str, data: bytes) -> bool:
        """Put `data` at `path` if nothing is there; return whether it was done. Raises as `write`."""
        try:
            obstore.put(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise translated(error) from error
        return True

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
        """Return the paths of all objects below `prefix` (a folder, without a final slash), sorted."""
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

    def free_bytes(self) -> int | None:
        """Return how much room the disk of a local storage has; None where the storage is no folder."""
        if not (isinstance(self._store, LocalStore) and self._store.prefix):
            return None
        try:
            return shutil.disk_usage(self._store.prefix).free
        except OSError as error:
            raise translated(error) from error


def translated(error: Exception) -> Exception:
    """Return the domain error for one of obstore's; it tells them apart by their text alone."""
    if isinstance(error, FileNotFoundError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "os error 28" in str(error) or "os error 122" in str(error):
        return StorageFull("the storage is full; delete corpora or models, or make room, and try again")
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unavailable(f"the storage does not work: {first_line}", code="storage_unavailable")
