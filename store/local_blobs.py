"""Objects as files of a folder, written so that a loss of power undoes nothing that was acknowledged.

    <folder>/<path>          one object
    <folder>/.tmp/<random>   an object that is being written; what a killed process left goes later

A file is written and synced under a temporary name, gets its own name by a link or a rename, and then its
folder is synced. Without the first sync the file may be empty after a loss of power, without the second it
may be absent. A folder that is made is synced in its parent before anything is put into it.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from models.errors import Unavailable
from store.blobs import Blobs, translated

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TEMPORARY = ".tmp"
_STALE_S = 3600
_CHUNK_BYTES = 1 << 20
_RETRIES = 50  # how often a folder may be deleted, for being empty, under a write into it


_Place = Callable[[Path, int, str], bool]
"""Gives a file a name in an open folder; returns whether it was done."""


class Disk:
    """The calls that change the disk; tests put one that records them in its place."""

    def open_new(self, path: Path) -> int:
        """Create a file, which must not exist; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open_folder(self, path: Path) -> int:
        """Return a descriptor of a folder."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]

    def sync(self, descriptor: int) -> None:
        """Return when the contents of a file, or the names in a folder, are on the disk."""
        if sys.platform == "darwin":  # its fsync leaves them in the disk's own cache
            with contextlib.suppress(OSError):  # some file systems cannot
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)

    def link(self, source: Path, folder: int, name: str) -> None:
        """Give a file a further name, which must be free."""
        os.link(source, name, dst_dir_fd=folder)

    def replace(self, source: Path, folder: int, name: str) -> None:
        """Give a file another name, taking it from the file that has it."""
        os.replace(source, name, dst_dir_fd=folder)

    def unlink(self, folder: int, name: str) -> None:
        """Delete a name, and the file with its last one."""
        os.unlink(name, dir_fd=folder)

    def make_folder(self, path: Path) -> None:
        """Make a folder in one that exists."""
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


class LocalBlobs(Blobs):
    """The objects in one folder, which must be one file system.

    Any number of threads and processes may use it at once.
    """

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self._folder = folder
        self._temporary = folder / _TEMPORARY
        self._disk = disk or Disk()
        self._durable: set[Path] = set()  # folders whose names are on the disk
        with _translating():
            self._make_folder(folder)
        self._delete_stale()

    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""
        with self._reading():
            return self._path(path).read_bytes()

    def stream(self, path: str, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the object in chunks of `chunk_bytes`. Raises FileNotFoundError at once."""
        chunks = self._stream(self._path(path), chunk_bytes)
        first = next(chunks, b"")  # which opens the file; a generator that has begun closes it, come what may
        return itertools.chain((first,), chunks)

    def write(self, path: str, data: bytes | Path) -> None:
        """Put `data`, or the contents of a local file, at `path`, replacing what is there."""
        self._put(path, data, self._replace)

    def create(self, path: str, data: bytes) -> bool:
        """Put `data` at `path` if nothing is there; return whether it was done."""
        return self._put(path, data, self._link_if_free)

    def copy(self, source: str, path: str) -> bool:
        """Put what is at `source` at `path` as well, if nothing is there; return whether it was done."""
        origin, target = self._path(source), self._path(path)
        with _translating():
            while True:
                try:
                    return self._place(origin, target, self._link_if_free)
                except FileNotFoundError:
                    if not origin.exists():
                        raise
                    self._durable.clear()  # the folder was deleted for being empty

    def exists(self, path: str) -> bool:
        """Return whether something is at `path`."""
        try:
            with self._reading():
                return stat.S_ISREG(self._path(path).stat().st_mode)
        except FileNotFoundError:
            return False

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix`, sorted."""
        with self._reading():
            found = sorted(_files(str(self._path(prefix)), prefix))
            return found or self._nothing()

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix` that hold an object, sorted."""
        with self._reading():
            folders = [entry for entry in _entries(str(self._path(prefix))) if entry.is_dir()]
            found = sorted(entry.name for entry in folders if any(_files(entry.path, "")))
            return found or self._nothing()

    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`, and the folders that are empty then."""
        names: dict[Path, list[str]] = {}
        for path in map(self._path, paths):
            names.setdefault(path.parent, []).append(path.name)
        with _translating():
            for folder, its_names in names.items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._delete_from(folder, its_names)

    def free_bytes(self) -> int:
        """Return how much room is left on the disk."""
        with _translating():
            return shutil.disk_usage(self._folder).free

    def _stream(self, path: Path, chunk_bytes: int) -> Iterator[bytes]:
        with self._reading():
            yield from _chunks(path, chunk_bytes)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with _translating():
            try:
                yield
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                self._nothing()
                raise FileNotFoundError(*error.args) from error

    def _nothing(self) -> list[str]:
        """Return an empty list, unless the whole folder is away: a disk that is not mounted, say."""
        if self._folder.is_dir():
            return []
        raise Unavailable(
            f"the storage does not work: {self._folder} is not a folder", code="storage_unavailable"
        )

    def _delete_from(self, folder: Path, names: list[str]) -> None:
        with self._opened(folder) as descriptor:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(descriptor, name)
            _sync_folder(self._disk, descriptor)
        with contextlib.suppress(OSError):  # it is not empty, or somebody has just removed it
            while folder != self._folder:
                self._durable.discard(folder)
                self._disk.remove_folder(folder)
                folder = folder.parent

    def _put(self, path: str, data: bytes | Path, place: _Place) -> bool:
        """Write and sync a temporary file, and have `place` give it its name; return what that returns."""
        target = self._path(path)
        with _translating():
            for _ in range(_RETRIES):
                try:
                    return self._put_once(target, data, place)
                except FileNotFoundError:  # a folder was deleted for being empty: make it again
                    self._durable.clear()
        raise Unavailable(
            f"the storage does not work: the folder of {path} cannot be kept", code="storage_unavailable"
        )

    def _put_once(self, target: Path, data: bytes | Path, place: _Place) -> bool:
        temporary = self._temporary / secrets.token_hex(12)
        self._make_folder(self._temporary)
        try:
            self._write(temporary, data)
            return self._place(temporary, target, place)
        finally:
            with contextlib.suppress(OSError):  # its name was taken away, or it goes as a stale one
                temporary.unlink()

    def _place(self, source: Path, target: Path, place: _Place) -> bool:
        self._make_folder(target.parent)
        # The very folder that was opened gets the name and is synced, whatever its path means meanwhile.
        with self._opened(target.parent) as folder:
            is_done = place(source, folder, target.name)
            _sync_folder(self._disk, folder)
        return is_done

    def _replace(self, source: Path, folder: int, name: str) -> bool:
        self._disk.replace(source, folder, name)
        return True

    def _link_if_free(self, source: Path, folder: int, name: str) -> bool:
        try:
            self._disk.link(source, folder, name)
        except FileExistsError:
            return False
        return True

    def _write(self, path: Path, data: bytes | Path) -> None:
        descriptor = self._disk.open_new(path)
        try:
            for chunk in _chunks(data, _CHUNK_BYTES) if isinstance(data, Path) else (data,):
                self._disk.write(descriptor, chunk)
            self._disk.sync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _opened(self, folder: Path) -> Iterator[int]:
        descriptor = self._disk.open_folder(folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        """Make sure that a folder exists, and will after a loss of power."""
        if folder in self._durable or folder == folder.parent:
            return
        is_ours = folder == self._folder or self._folder in folder.parents
        if not is_ours and folder.is_dir():
            return
        self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            self._disk.make_folder(folder)
        try:
            with self._opened(folder.parent) as parent:
                _sync_folder(self._disk, parent)
        except OSError:
            if self._folder in folder.parents:
                raise  # above it lie folders of others, which need not let themselves be read
        self._durable.add(folder)

    def _delete_stale(self) -> None:
        """Delete the temporary files of processes that were killed."""
        oldest_s = time.time() - _STALE_S
        with contextlib.suppress(OSError):
            for path in self._temporary.iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < oldest_s:
                        path.unlink()

    def _path(self, path: str) -> Path:
        """Return where an object is. Raises ValueError for what could lie outside the folder."""
        if not all(map(_NAME.fullmatch, path.split("/"))):
            raise ValueError(f"{path!r} cannot be the path of an object")
        return self._folder / path


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise translated(error) from error


def _sync_folder(disk: Disk, descriptor: int) -> None:
    try:
        disk.sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no folders
            raise


def _chunks(path: Path, chunk_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """Return what is in a folder, if it exists, but for hidden files and those that obstore was writing."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if _NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(folder: str, prefix: str) -> Iterator[str]:
    """Yield the paths of the files below a folder, beginning with `prefix`."""
    for entry in _entries(folder):
        path = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry.path, path)
        else:
            yield path
