"""A log file that is followed through rotation, from a position that survives the program.

A log is rotated by renaming it and making a new one, or by copying and truncating it. Both are recognized by
the file's identity (device and inode) and a fingerprint of its beginning, also if it happened while no
program was watching: then the rest of the old log is read from where it is now, beside the new one. After
several rotations the files in between are read next, in their order.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_HEAD_BYTES = 1024
_MIN_HEAD_BYTES = 16  # shorter beginnings are too much alike to recognize a copy by
_ROTATED = (".#", "-#")  # forms of the names that logrotate gives, after the log's own name
_MAX_INDEX = 999  # a larger number in a rotated file's name is a date
_GRACE_S = 1.0  # for which a program may still write to a renamed log


@dataclass(frozen=True)
class Position:
    """How far a log was read: `offset` bytes of the file with this identity.

    `head` is the SHA-256 of its first `head_bytes`, which were read; `generation` counts the files that the
    log was.
    """

    device: int
    inode: int
    offset: int = 0
    head: str = ""
    head_bytes: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Chunk:
    """Complete lines, and where they begin and end. A last line without a newline is given one."""

    data: bytes
    start: Position
    end: int

    @property
    def lines(self) -> int:
        """The number of lines."""
        return self.data.count(b"\n")


class FollowedFile:
    """Reads a log. `note` is called with a sentence when lines may be missing.

    Call `read`, and `advance` with what it returned once that has been dealt with; until then it returns the
    same again, or more.
    """

    def __init__(self, path: Path, position: Position | None, *, from_start: bool, note: Any) -> None:
        self.path = path
        self.position = position
        self._from_start, self._note = from_start, note
        self._file: int | None = None
        self._is_old = False  # what is open is not what is at the path any more
        self._replaced_at_s: float | None = None  # by time.monotonic

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self, max_bytes: int, *, end: int | None = None) -> Chunk | None:
        """Return the next complete lines, or None if there are none yet.

        With `end`, the offset where a chunk that was read before ends, return that chunk again.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.open():
            return None
        assert self._file is not None and self.position is not None
        position = self.position
        if end is not None and not 0 < end - position.offset <= max_bytes:
            end = None  # no chunk
        limit = max_bytes if end is None else end - position.offset
        data = os.pread(self._file, limit, position.offset)
        if end is not None and len(data) == limit:
            return self._chunk(data)
        complete = data.rfind(b"\n") + 1
        if complete:
            return self._chunk(data[:complete])
        # A line without end and the last one of a log that was rotated away are not waited for.
        if len(data) == max_bytes or (data and self._is_finished()):
            return self._chunk(data)
        has_next = not data and self._is_finished() and self._open_next()
        return self.read(max_bytes) if has_next else None

    def open(self) -> bool:
        """Open the log, if it is not open; return whether there is one."""
        if self._file is not None and not (self._is_old or self._is_whole()):
            self.close()  # it was truncated: its copy comes first, then its new beginning
        return self._file is not None or self._open()

    def advance(self, chunk: Chunk) -> None:
        """Advance past a chunk."""
        self.position = replace(chunk.start, offset=chunk.end)

    def _chunk(self, data: bytes) -> Chunk:
        """Return what was read at the position as a chunk.

        Its start has a fingerprint of its lines, too: once the file is deleted, another can have its inode.
        """
        assert self._file is not None and self.position is not None
        end = self.position.offset + len(data)
        start = _with_head(self._file, self.position, end)
        return Chunk(data if data.endswith(b"\n") else data + b"\n", start, end)

    def _open(self) -> bool:
        """Open the file that the position is in, or the one at the path; return whether there is one."""
        file = _open_log(self.path)
        if self.position is None:
            if file is not None:
                self._start(file, at_end=not self._from_start, generation=0)
            self._from_start = True  # a log that appears later is read from its beginning
            return file is not None
        if file is not None and _is_same(file, self.position):
            self._file, self._is_old = file, False
            return True
        old = self._find_old()
        if old is not None:
            if file is not None:
                os.close(file)
            self._file, self._is_old, self._replaced_at_s = old, True, 0.0
            return True
        if file is None:
            return False
        if self.position.head_bytes:
            self._note(
                f"{self.path} was rotated and the rotated file was not found; lines after byte"
                f" {self.position.offset:,} may be missing"
            )
        self._start(file, at_end=False, generation=self.position.generation + 1)
        return True

    def _start(self, file: int, *, at_end: bool, generation: int) -> None:
        status = os.fstat(file)
        offset = _end_of_lines(file, status.st_size) if at_end else 0
        position = Position(status.st_dev, status.st_ino, offset, generation=generation)
        self.position = _with_head(file, position, offset)
        self._file, self._is_old, self._replaced_at_s = file, False, None

    def _is_whole(self) -> bool:
        assert self._file is not None and self.position is not None
        return _is_same(self._file, self.position)

    def _is_finished(self) -> bool:
        """Return whether the file has been replaced and nothing more is written to it."""
        assert self.position is not None
        try:
            status = self.path.stat()
        except FileNotFoundError:  # not made yet: the renamed log is still written to
            return False
        is_other = (status.st_dev, status.st_ino) != (self.position.device, self.position.inode)
        if self._replaced_at_s is None and is_other:
            self._replaced_at_s = time.monotonic()
        return self._replaced_at_s is not None and time.monotonic() - self._replaced_at_s >= _GRACE_S

    def _open_next(self) -> bool:
        assert self.position is not None
        generation = self.position.generation + 1
        file = _open_log(self._next_path())
        if file is not None:
            self.close()
            self._start(file, at_end=False, generation=generation)
        return file is not None

    def _next_path(self) -> Path:
        """Return the path of the file that was the log after the finished one: a rotated file, or the log.

        Rotated files are recognized by their names, which have one form and give the order of rotation. If
        the finished file is no longer beside the log, the files before it are gone too: then the times of the
        last changes give the order.
        """
        assert self._file is not None
        finished, finished_form, finished_order = os.fstat(self._file), "", [0]
        rotated = []
        for path in self._neighbors():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                form, order = _rotation(path.name.removeprefix(self.path.name).removeprefix(self.path.stem))
                rotated.append((form, order, status.st_mtime_ns, path))
                if os.path.samestat(status, finished):
                    finished_form, finished_order = form, order
        since = finished.st_mtime_ns
        if finished_form:
            following = [
                (order, path)
                for form, order, changed, path in rotated
                if form == finished_form and order > finished_order and changed >= since
            ]
        else:
            following = [
                ([changed], path)
                for form, _, changed, path in rotated
                if form in _ROTATED and changed > since
            ]
        return min(following)[1] if following else self.path

    def _find_old(self) -> int | None:
        """Return the file beside the log that is what the log was: the renamed one, or a copy of it."""
        assert self.position is not None
        copies: list[tuple[float, int]] = []
        for path in self._neighbors():
            file = _open_log(path)
            if file is None:
                continue
            status = os.fstat(file)
            is_renamed = (status.st_dev, status.st_ino) == (self.position.device, self.position.inode)
            is_copy = self.position.head_bytes >= _MIN_HEAD_BYTES and _has_head(file, self.position)
            if is_renamed and _is_same(file, self.position):
                _close_all(copies)
                return file
            if is_copy:
                copies.append((status.st_mtime, file))
            else:
                os.close(file)
        copies.sort()
        newest = copies.pop()[1] if copies else None
        _close_all(copies)
        return newest

    def _neighbors(self) -> Iterator[Path]:
        name = self.path.name
        for path in self.path.parent.iterdir():
            is_like = path.name != name and path.name.startswith(self.path.stem)
            if is_like and path.is_file() and os.access(path, os.R_OK):
                yield path


def _rotation(suffix: str) -> tuple[str, list[int]]:
    """Return the form of what a rotated file's name adds, and what orders names of this form by age.

    >>> _rotation(".2"), _rotation("-20261128.log")
    (('.#', [-2]), ('-#.log', [20261128]))
    """
    numbers = [int(digits) for digits in re.findall(r"[0-9]+", suffix)]
    is_index = len(numbers) == 1 and numbers[0] <= _MAX_INDEX  # the newest is 1
    return re.sub(r"[0-9]+", "#", suffix), [-n for n in numbers] if is_index else numbers


def _open_log(path: Path) -> int | None:
    """Open a file; return None if there is none at this moment."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _is_same(file: int, position: Position) -> bool:
    """Return whether a file is that of a position, and has not been truncated."""
    status = os.fstat(file)
    is_same_file = (status.st_dev, status.st_ino) == (position.device, position.inode)
    return is_same_file and _has_head(file, position)


def _has_head(file: int, position: Position) -> bool:
    return os.fstat(file).st_size >= position.offset and _head(file, position.head_bytes) == position.head


def _with_head(file: int, position: Position, read_bytes: int) -> Position:
    count = min(_HEAD_BYTES, read_bytes)
    return replace(position, head=_head(file, count), head_bytes=count)


def _head(file: int, count: int) -> str:
    return hashlib.sha256(os.pread(file, count, 0)).hexdigest()


def _end_of_lines(file: int, size: int) -> int:
    """Return the offset behind the last newline in the last mebibyte, or the size if there is none."""
    start = max(0, size - (1 << 20))
    newline = os.pread(file, size - start, start).rfind(b"\n")
    return start + newline + 1 if newline >= 0 else (0 if start == 0 else size)


def _close_all(files: list[tuple[float, int]]) -> None:
    for _, file in files:
        os.close(file)
