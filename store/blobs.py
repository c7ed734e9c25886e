"""Named byte strings, in a folder or in an object store.

`open_blobs` takes a folder of this machine (store/local_blobs.py) or S3 and its kin (store/object_blobs.py).
Every write is atomic: a reader sees the whole object or none. `create` is the one primitive the records'
guarantees rest on: of several writers, one wins. What a call that changes something has done is durable when
it returns: a loss of power does not undo it.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from models.errors import StorageFull, Unavailable


def open_blobs(url: str) -> "Blobs":
    """Return the storage at `url`: file:///folder (made if missing), memory:///, s3://bucket and its kin."""
    if url.startswith("file://"):
        from store.local_blobs import LocalBlobs

        return LocalBlobs(Path(url2pathname(urlsplit(url).path)))
    from store.object_blobs import ObjectBlobs

    return ObjectBlobs.at(url)


class Blobs(ABC):
    """Named byte strings: what its two implementations have in common.

    Paths are slash-separated and relative; they need no folders made. Every method raises Unavailable if the
    storage does not answer or refuses.
    """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""

    @abstractmethod
    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """Yield the object in chunks of about `chunk_bytes`. Raises FileNotFoundError at once."""

    @abstractmethod
    def write(self, path: str, data: bytes | Path) -> None:
        """Put `data`, or the contents of a local file, at `path`, replacing what is there.

        Raises:
            StorageFull: no room; what was at `path` before is still there.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Put `data` at `path` if nothing is there; return whether it was done. Raises as `write`.

        What another writer has put there is durable as well when this returns False.
        """

    @abstractmethod
    def copy(self, source: str, path: str) -> bool:
        """Put what is at `source` at `path` as well, if nothing is there; return whether it was done.

        In a folder this takes no room, so that it can be done on a full disk. Raises FileNotFoundError if
        nothing is at `source`, and as `write`.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether something is at `path`."""

    @abstractmethod
    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix` (a folder, without a final slash), sorted."""

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, sorted."""

    @abstractmethod
    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`.

        A loss of power before this returns may undo the deletion of any of them: where one must go before
        another, call this twice.
        """

    def free_bytes(self) -> int | None:
        """Return how much room the disk of a local storage has; None where the storage is no folder."""
        return None


def translated(error: Exception) -> Exception:
    """Return the domain error for one of the system's or of obstore's, whose kinds differ in text alone."""
    if isinstance(error, FileNotFoundError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "os error 28" in str(error) or "os error 122" in str(error):
        return StorageFull("the storage is full; delete corpora or models, or make room, and try again")
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unavailable(f"the storage does not work: {first_line}", code="storage_unavailable")
