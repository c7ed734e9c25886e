"""The storage interface: named byte strings, in a folder or in an object store.

Every write is atomic: a reader sees the whole object or none. Records rely on one primitive, `create`: of
several concurrent writers, exactly one succeeds. A change is durable when its call returns, so a power loss
does not undo it. Implementations: store/local_blobs.py and store/object_blobs.py.

Temporary files without a name, which are deleted when they are closed.
"""

import errno
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nextchar.models.errors import StorageFull, Unavailable

CHUNK_BYTES = 1 << 20
"""The size of the chunks in which objects are read and written."""

MAX_RECORD_BYTES = 16 << 20
"""Records are smaller; a larger object is damaged."""


class StorageRefused(Exception):
    """The storage cannot be used as it is configured; the message says why and what to do."""


class Blobs(ABC):
    """Named byte strings.

    Paths are relative and separated by slashes; folders need not be created. Every method raises Unavailable
    if the storage fails.
    """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""

    def read_record(self, path: str, *, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
        """Return the bytes of a record. Raises FileNotFoundError.

        Of an object that is larger than any record, which this program did not write, only the beginning: its
        reader finds that it is damaged.
        """
        return b"".join(read_limited(self.stream(path), max_bytes))

    @abstractmethod
    def stream(self, path: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the object in chunks of about `chunk_bytes`. Raises FileNotFoundError at once."""

    @abstractmethod
    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the object's bytes from `start` to before `end`, or to its end. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, path: str, data: bytes | Path) -> None:
        """Write `data`, or the contents of a local file, to `path`, replacing any object there.

        Raises:
            StorageFull: no room; an object that was at `path` is unchanged.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write `data` to `path` unless an object exists there; return whether it was written.

        If this returns False, the existing object is durable. Raises as `write`.
        """

    @abstractmethod
    def copy(self, source: str, path: str) -> bool:
        """Copy the object at `source` to `path` unless one exists there; return whether it was copied.

        Nothing is read into memory. In a folder this takes no room, so it works on a full disk. Raises
        FileNotFoundError if there is no object at `source`, and as `write`.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is an object at `path`."""

    @abstractmethod
    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix` (a folder, without a final slash), sorted."""

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, sorted."""

    @abstractmethod
    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`.

        A power loss before this returns may undo the deletion of any of them: to delete one before another,
        call this twice.
        """

    def check(self) -> None:  # noqa: B027 -- a folder needs no check
        """Check at start that the storage can be used; a folder is checked when it is opened.

        Raises:
            StorageRefused: it cannot be used as it is set up.
            Unavailable: it does not work now.
        """

    def free_bytes(self) -> int | None:
        """Return the free bytes on the disk of a local storage; None for an object store."""
        return None


def read_limited(chunks: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield chunks, of which the last is cut, until one more byte than `max_bytes`."""
    left = max_bytes + 1
    for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return


def as_domain_error(error: Exception) -> Exception:
    """Return the domain error for an error of the system or of obstore (whose errors differ in text only)."""
    if isinstance(error, FileNotFoundError):
        return error
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "os error 28" in str(error) or "os error 122" in str(error):
        return StorageFull("the storage is full; delete corpora or models, or free disk space, and try again")
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unavailable(f"the storage does not work: {first_line}", code="storage_unavailable")


@contextmanager
def domain_errors(kinds: type[Exception] | tuple[type[Exception], ...] = OSError) -> Iterator[None]:
    """Raise errors of these kinds as domain errors: see `as_domain_error`."""
    try:
        yield
    except kinds as error:
        raise as_domain_error(error) from error


def temporary_file(folder: Path | None = None) -> IO[bytes]:
    """Return a new file in a folder, which is made; by default the system's. Raises as Blobs does."""
    with domain_errors():
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
