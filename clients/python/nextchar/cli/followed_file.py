"""A log that is followed through rotation, from a position that is saved.

A log is rotated by renaming it and making a new one, or by copying and truncating it. Both are recognized by
the file's identity (device and inode) and a fingerprint of its beginning, also if it happened while no
program was watching: then the rest of the old log is read from where it is now, and then all newer files.
"""

import glob
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from nextchar.errors import NextcharError

_HEAD_BYTES = 1024
_MIN_HEAD_BYTES = 16  # shorter beginnings are too much alike to recognize a copy by
_TAIL_BYTES = 1 << 20  # in which the beginning of an incomplete line is looked for
_GRACE_S = 1.0  # for which a program may still write to a renamed log
_VERSION = 1


class Position(NamedTuple):
    """A place in one of the files that the log was; by default, before the first."""

    device: int = 0
    inode: int = 0
    offset: int = 0
    head: str = ""  # SHA-256 of the file's first bytes
    head_bytes: int = 0
    generation: int = -1  # number of the file


class FollowedFile:
    """Reads a log from where it was read before, else from its end, or its start if it appears later.

    Call `read`, and `advance` once what it returned was sent; until then it returns the same again, also in
    the next process: the state is in $XDG_STATE_HOME/nextchar/watch. `note` says when lines may be missing.
    """

    def __init__(
        self, path: Path, server: str, model: str, note: Callable[[str], None], *, from_start: bool
    ) -> None:
        import fcntl  # which Windows has not, and only this command needs

        self.path, self._note, self._from_start = path, note, from_start
        self._position, self._file = Position(), -1
        self._reading_to: int | None = None  # offset of the end of the lines that were read
        self._replaced_at_s: float | None = None  # when another file was first at the path, by time.monotonic
        self.shown: int | None = None  # number of the last flagged line that was shown
        self._about = {"version": _VERSION, "server": server, "model": model, "path": str(path)}
        home = Path(os.environ.get("XDG_STATE_HOME", ""))
        folder = (home if home.is_absolute() else Path.home() / ".local/state") / "nextchar/watch"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._state = folder / f"{_digest(server, model, path)[:32]}.json"
        self._lock = os.open(self._state.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends
        except BlockingIOError:
            raise NextcharError(f"another `nextchar watch` sends {path} to {model}; stop it first") from None
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # there is none, or it is damaged
            if (saved := json.loads(self._state.read_bytes()))["version"] == _VERSION:
                self._position = Position(**saved["position"] or {})
                self._reading_to, self.shown, self._from_start = saved["sending_to"], saved["printed"], True

    def save(self) -> None:
        """Replace what was saved, and sync it."""
        position, end = self._position._asdict(), self._reading_to
        with self._state.with_suffix(".new").open("w") as file:
            json.dump({**self._about, "position": position, "sending_to": end, "printed": self.shown}, file)
            file.flush()
            os.fsync(file.fileno())
        self._state.with_suffix(".new").replace(self._state)

    def read(self, max_bytes: int) -> tuple[bytes, str] | None:
        """Return the next complete lines, if there are any, and a key that no others have. Raises OSError."""
        if not self.open():
            return None
        device, inode, offset, *_, generation = self._position
        size = (self._reading_to or 0) - offset  # of what was read before, if anything
        limit = size if 0 < size <= max_bytes else max_bytes
        data = os.pread(self._file, limit, offset)
        lines = data[: data.rfind(b"\n") + 1]
        # A line longer than the limit and the last one of a log that was rotated away are not waited for.
        if not lines and len(data) < limit and not self._is_finished():
            return None
        if not data:
            self._open_next()
            return None
        self._reading_to = end = offset + len(lines or data)
        # The fingerprint is of these lines, too: once the file is deleted, another can have its inode.
        self._position = Position(device, inode, offset, *_head(self._file, end), generation)
        self.save()
        lines = lines or data + b"\n"
        return lines, _digest(self.path, device, inode, generation, offset, end, content=lines)

    def advance(self) -> None:
        """Advance past what was read."""
        end, self._reading_to = self._reading_to or self._position.offset, None
        self._position = self._position._replace(offset=end)
        self.save()

    def open(self) -> bool:
        """Open the file that the position is in, or else the one at the path; return whether there is one."""
        if self._file < 0 or not _has_head(self._file, self._position):
            self._use(self._find())  # after truncation its copy comes first, then its new beginning
        old = self._position
        with suppress(FileNotFoundError):
            if self._file < 0:
                self._begin(self.path, at_end=not self._from_start)
                if old.head_bytes:
                    missing = f"lines after byte {old.offset:,} may be missing"
                    self._note(f"{self.path} was rotated and the rotated file was not found; {missing}")
        self._from_start = True
        return self._file >= 0

    def _use(self, file: int) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._replaced_at_s = file, None

    def _begin(self, path: Path, *, at_end: bool = False) -> None:
        """Open another file at its beginning, or behind its last complete line."""
        self._use(os.open(path, os.O_RDONLY))
        status = os.fstat(self._file)
        tail = max(0, status.st_size - _TAIL_BYTES)
        offset = tail + os.pread(self._file, _TAIL_BYTES, tail).rfind(b"\n") + 1 if at_end else 0
        head, generation = _head(self._file, offset), self._position.generation + 1
        self._position = Position(status.st_dev, status.st_ino, offset, *head, generation)
        self._reading_to = None

    def _find(self) -> int:
        """Open the file that the position is in: the log, the renamed log, or its newest copy, or else -1."""
        found, can_be_copy = [], self._position.head_bytes >= _MIN_HEAD_BYTES
        with ExitStack() as opened:
            for path in (self.path, *self._beside()):
                with suppress(FileNotFoundError):
                    file = opened.enter_context(path.open("rb")).fileno()
                    status = os.fstat(file)
                    is_same = (status.st_dev, status.st_ino) == self._position[:2]
                    if (is_same or (can_be_copy and path != self.path)) and _has_head(file, self._position):
                        found.append((is_same, status.st_mtime_ns, file))
            return os.dup(max(found)[-1]) if found else -1

    def _is_finished(self) -> bool:
        """Return whether the file has been replaced and nothing more is written to it."""
        with suppress(FileNotFoundError):  # not made yet: the renamed log is still written to
            if not os.path.samestat(self.path.stat(), os.fstat(self._file)):
                self._replaced_at_s = self._replaced_at_s or time.monotonic()
        return self._replaced_at_s is not None and time.monotonic() - self._replaced_at_s >= _GRACE_S

    def _open_next(self) -> None:
        """Open what the log was after this file: the rotated file that is the next one, or the log."""
        name, stem, suffix = map(re.escape, (self.path.name, self.path.stem, self.path.suffix))
        rotated = rf"{name}[.-]\d[\dT_:.-]*|{stem}[.-]\d{{4}}-?\d\d[\dT_:.-]*{suffix}"
        old = os.fstat(self._file)
        with suppress(FileNotFoundError):  # one was renamed at this moment
            files = [(self._order(p), p, p.stat()) for p in self._beside() if re.fullmatch(rotated, p.name)]
            order = max((order for order, _, now in files if os.path.samestat(old, now)), default=[])
            newer = [file[:2] for file in files if file[0] > order and file[2].st_mtime_ns >= old.st_mtime_ns]
            self._begin(min(newer)[1] if newer else self.path)

    def _order(self, rotated: Path) -> list[int]:
        """Return what rises from each rotated file to the next: a date, or a number that falls, negated."""
        numbers = [int(digits) for digits in re.findall(r"\d+", rotated.name.removeprefix(self.path.stem))]
        return [-numbers[0]] if len(numbers) == 1 and numbers[0] < 1000 else numbers

    def _beside(self) -> list[Path]:
        """Return the readable files whose names begin like the log's, and the log."""
        paths = self.path.parent.glob(glob.escape(self.path.stem) + "*")
        return [path for path in paths if path.is_file() and os.access(path, os.R_OK)]


def _has_head(file: int, at: Position) -> bool:
    return os.fstat(file).st_size >= at.offset and _head(file, at.head_bytes) == (at.head, at.head_bytes)


def _head(file: int, read_bytes: int) -> tuple[str, int]:
    """Return the SHA-256 of the beginning of what was read, and its size in bytes."""
    head = os.pread(file, min(_HEAD_BYTES, read_bytes), 0)
    return sha256(head).hexdigest(), len(head)


def _digest(*names: object, content: bytes | None = None) -> str:
    digest = b"" if content is None else sha256(content).digest()
    return sha256("\n".join(map(str, names)).encode(errors="surrogateescape") + digest).hexdigest()
