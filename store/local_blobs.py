"""Blobs as files in a folder; a power loss does not undo an acknowledged write.

    <folder>/<path>          one object
    <folder>/.tmp/<random>   an object being written; stale files of killed processes are deleted later

A file is written and synced under a temporary name, linked or renamed to its own name, and then its folder is
synced. Without the first sync the file may be empty after a power loss; without the second it may be missing.
The parent of a folder is synced before anything is written into the folder. The folder is then kept open: if
another process deletes it and makes it again, a write into it fails and is repeated.
"""

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import CHUNK_BYTES, Blobs, domain_errors

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TEMPORARY = ".tmp"
_STALE_S = 3600
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# A folder was deleted, perhaps by another host, or another file system was mounted over it.
_GONE = (errno.ENOENT, errno.ESTALE, errno.EXDEV)
_MAX_OPEN_FOLDERS = 64
_RETRIES = 50  # of a write whose folder is deleted concurrently because it is empty

_Commit = Callable[[Path, int, str], bool]
"""Gives a file a name in an open folder; returns whether it did."""


class Disk:
    """The system calls that change the disk; tests substitute a recorder."""

    def open_new(self, path: Path) -> int:
        """Create a file that does not exist; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open_folder(self, path: Path, parent: int | None = None) -> int:
        """Return a descriptor of a folder, which is looked for in the open folder `parent` if it is given."""
        name = path if parent is None else path.name
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]

    def sync(self, descriptor: int) -> None:
        """Flush the contents of a file, or the entries of a folder, to the disk."""
        if sys.platform == "darwin":  # its fsync does not flush the disk's cache
            with contextlib.suppress(OSError):  # not supported by every file system
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)

    def link(self, source: Path, folder: int, name: str) -> None:
        """Give a file another name; raises FileExistsError if it is taken."""
        os.link(source, name, dst_dir_fd=folder)

    def replace(self, source: Path, folder: int, name: str) -> None:
        """Rename a file, replacing a file of that name."""
        os.replace(source, name, dst_dir_fd=folder)

    def unlink(self, folder: int, name: str) -> None:
        """Delete a name of a file."""
        os.unlink(name, dir_fd=folder)

    def make_folder(self, path: Path, parent: int | None = None) -> None:
        """Create a folder in an existing one: in the open folder `parent` if it is given."""
        os.mkdir(path if parent is None else path.name, dir_fd=parent)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


class _Folder:
    """An open folder whose entry in its parent is synced.

    Its inode is not reused while it is open, so nothing can be put into a folder that replaced it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)  # with the last reference, as another thread may be using it


class LocalBlobs(Blobs):
    """The objects in one folder, on one file system. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self._folder = folder
        self._temporary = folder / _TEMPORARY
        self._disk = disk or Disk()
        self._folders: dict[Path, _Folder] = {}
        with domain_errors():
            self._open_folder(folder)
        self._delete_stale()

    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""
        with self._reading():
            return self._path(path).read_bytes()

    def map(self, path: str) -> bytes | memoryview:
        """Return the object's bytes, mapped into memory. Raises FileNotFoundError."""
        with self._reading(), self._path(path).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return b""  # which cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def stream(self, path: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the object in chunks of `chunk_bytes`. Raises FileNotFoundError at once."""
        chunks = self._stream(self._path(path), chunk_bytes)
        first = next(chunks, b"")  # opens the file; a generator that has started closes it in any case
        return itertools.chain((first,), chunks)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the object's bytes from `start` to before `end`, or to its end. Raises FileNotFoundError."""
        with self._reading(), self._path(path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def write(self, path: str, data: bytes | Path) -> None:
        """Write `data`, or the contents of a local file, to `path`, replacing any object there."""
        self._put(path, data, self._replace)

    def create(self, path: str, data: bytes) -> bool:
        """Write `data` to `path` unless an object exists there; return whether it was written."""
        return self._put(path, data, self._link_if_free)

    def copy(self, source: str, path: str) -> bool:
        """Copy the object at `source` to `path` unless one exists there; return whether it was copied."""
        source_path, target = self._path(source), self._path(path)
        with domain_errors():
            while True:
                try:
                    return self._commit(source_path, target, self._link_if_free)
                except FileNotFoundError:
                    if not source_path.exists():
                        raise
                    self._folders.clear()  # the folder was deleted because it was empty

    def exists(self, path: str) -> bool:
        """Return whether there is an object at `path`."""
        try:
            with self._reading():
                return stat.S_ISREG(self._path(path).stat().st_mode)
        except FileNotFoundError:
            return False

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix`, sorted."""
        with self._reading():
            paths = sorted(_files(str(self._path(prefix)), prefix))
            return paths or self._empty_list()

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix` that hold an object, sorted."""
        with self._reading():
            folders = [entry for entry in _entries(str(self._path(prefix))) if entry.is_dir()]
            names = sorted(entry.name for entry in folders if any(_files(entry.path, "")))
            return names or self._empty_list()

    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`, and the folders that become empty."""
        names_by_folder: dict[Path, list[str]] = {}
        for path in map(self._path, paths):
            names_by_folder.setdefault(path.parent, []).append(path.name)
        with domain_errors():
            for folder, names in names_by_folder.items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._delete_from(folder, names)

    def free_bytes(self) -> int:
        """Return the free bytes on the disk."""
        with domain_errors():
            return shutil.disk_usage(self._folder).free

    def _stream(self, path: Path, chunk_bytes: int) -> Iterator[bytes]:
        with self._reading():
            yield from _chunks(path, chunk_bytes)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with domain_errors():
            try:
                yield
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                self._empty_list()
                raise FileNotFoundError(*error.args) from error

    def _empty_list(self) -> list[str]:
        """Return an empty list. Raises Unavailable if the storage folder is missing (unmounted)."""
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
        with contextlib.suppress(OSError):  # not empty, or just removed by another process
            while folder != self._folder:
                self._folders.pop(folder, None)
                self._disk.remove_folder(folder)
                folder = folder.parent

    def _put(self, path: str, data: bytes | Path, commit: _Commit) -> bool:
        """Write and sync a temporary file, and name it by `commit`; return the result of `commit`."""
        target = self._path(path)
        with domain_errors():
            for _ in range(_RETRIES):
                try:
                    return self._put_once(target, data, commit)
                except FileNotFoundError:  # a folder was deleted because it was empty: create it again
                    self._folders.clear()
        raise Unavailable(
            f"the storage does not work: the folder of {path} keeps disappearing", code="storage_unavailable"
        )

    def _put_once(self, target: Path, data: bytes | Path, commit: _Commit) -> bool:
        temporary = self._temporary / secrets.token_hex(12)
        self._open_folder(self._temporary)
        try:
            self._write(temporary, data)
            return self._commit(temporary, target, commit)
        finally:
            with contextlib.suppress(OSError):  # renamed, or deleted later as stale
                temporary.unlink()

    def _commit(self, source: Path, target: Path, commit: _Commit) -> bool:
        try:
            folder = self._open_folder(target.parent)
            is_done = commit(source, folder.descriptor, target.name)
        except OSError as error:
            if error.errno in _GONE:
                raise FileNotFoundError(*error.args) from error
            raise
        _sync_folder(self._disk, folder.descriptor)
        return is_done

    def _replace(self, source: Path, folder: int, name: str) -> bool:
        self._disk.replace(source, folder, name)
        return True

    def _link_if_free(self, source: Path, folder: int, name: str) -> bool:
        try:
            self._disk.link(source, folder, name)
        except FileExistsError:
            # Over NFS a repeated call finds the link of the first one, if the reply was lost.
            is_new_file = source.parent == self._temporary
            return is_new_file and os.path.samestat(source.stat(), os.stat(name, dir_fd=folder))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise Unavailable(
                f"the storage does not work: the file system of {self._folder} makes no hard links"
                f" ({error.strerror}); move the folder to one that does, such as ext4, XFS, APFS or NFS",
                code="storage_unavailable",
            ) from error
        return True

    def _write(self, path: Path, data: bytes | Path) -> None:
        descriptor = self._disk.open_new(path)
        try:
            for chunk in _chunks(data, CHUNK_BYTES) if isinstance(data, Path) else (data,):
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

    def _open_folder(self, path: Path) -> _Folder:
        """Open a folder of the storage; create it durably if it does not exist."""
        if known := self._folders.get(path):
            return known
        if path == self._folder:
            self._make_parents(path)
            folder = _Folder(self._disk.open_folder(path))
        else:
            parent = self._open_folder(path.parent)
            with contextlib.suppress(FileExistsError):
                self._disk.make_folder(path, parent.descriptor)
            folder = _Folder(self._disk.open_folder(path, parent.descriptor))
            _sync_folder(self._disk, parent.descriptor)  # once the folder is open: its own entry
        if len(self._folders) >= _MAX_OPEN_FOLDERS:
            self._folders.clear()
        self._folders[path] = folder
        return folder

    def _make_parents(self, folder: Path) -> None:
        """Create the storage folder, and those above it that do not exist."""
        if not folder.parent.is_dir():
            self._make_parents(folder.parent)
        with contextlib.suppress(FileExistsError):
            self._disk.make_folder(folder)
        with contextlib.suppress(OSError), self._opened(folder.parent) as parent:  # perhaps it is unreadable
            _sync_folder(self._disk, parent)

    def _delete_stale(self) -> None:
        """Delete the temporary files of killed processes."""
        oldest_s = time.time() - _STALE_S
        with contextlib.suppress(OSError):
            for path in self._temporary.iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < oldest_s:
                        path.unlink()

    def _path(self, path: str) -> Path:
        """Return the file of an object. Raises ValueError for a path that could leave the folder."""
        if not all(map(_NAME.fullmatch, path.split("/"))):
            raise ValueError(f"{path!r} is not a valid object path")
        return self._folder / path


def _sync_folder(disk: Disk, descriptor: int) -> None:
    try:
        disk.sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
            raise


def _chunks(path: Path, chunk_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """Return the entries of a folder, if it exists, except hidden and temporary files."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if _NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(folder: str, prefix: str) -> Iterator[str]:
    """Yield the paths of the files below a folder, each after `prefix`."""
    for entry in _entries(folder):
        path = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry.path, path)
        else:
            yield path
