"""`nextchar watch FILE…`: follow logs, have their lines scored by the service, and print those it flags.

One loop sends new lines and prints flagged ones, which a thread receives.

A log that is followed through rotation, from a position that is saved.

A log is rotated by renaming it and making a new one, or by copying and truncating it. Both are recognized by
the file's identity (device and inode) and a fingerprint of its beginning, also if it happened while no
program was watching: then the rest of the old log is read from where it is now, and then all newer files.
"""

import glob
import json
import math
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NamedTuple, Unpack

from typer import Argument, Option

from nextchar.cli.flagged_lines import LineView
from nextchar.cli.formatting import format_duration
from nextchar.cli.names import complete_model
from nextchar.cli.session import Session, command
from nextchar.connection import Outage
from nextchar.errors import NextcharError
from nextchar.lines import Line
from nextchar.options import IngestOptions
from nextchar.types import FlaggedLine

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


_POLL_S = 0.25
_BATCH_BYTES = 256 << 10
_MAX_SOURCE_CHARACTERS = 200
_SAVE_AFTER = 200  # flagged lines of other sources; the service keeps more


@command
def watch(
    session: Session,
    files: Annotated[list[Path], Argument(metavar="FILE", help="Logs to follow.", show_default=False)],
    model: Annotated[
        str, Option("--model", "-m", metavar="MODEL", help="The model.", autocompletion=complete_model)
    ],
    from_start: Annotated[
        bool, Option("--from-start", help="Begin a log at its start, not its end, the first time.")
    ] = False,
    **options: Unpack[IngestOptions],
) -> None:
    """Follow logs through rotation, and print the lines that the service flags.

    After a restart it continues where it stopped. While the service is away it waits.
    Flagged lines also become alerts. Ctrl-C ends it with a summary.

    Example: nextchar watch /var/log/auth.log --model sshd
    """
    logs = [
        FollowedFile(path, session.client.server, model, session.print_note, from_start=from_start)
        for path in dict.fromkeys(map(Path.absolute, files))
    ]
    watching = _Watching(session, model, logs, options)
    began_s = time.monotonic()
    try:
        while True:
            watching.step()
    except KeyboardInterrupt:
        session.print_note(
            f"{watching.sent:,} line{'s' if watching.sent != 1 else ''} sent, {watching.flagged:,} flagged in"
            f" {format_duration(time.monotonic() - began_s)}; the next `nextchar watch` continues from here"
        )
        raise


class _Watching:
    """Sends the lines of logs, and prints flagged ones."""

    def __init__(
        self, session: Session, model: str, logs: list[FollowedFile], options: IngestOptions
    ) -> None:
        self._session, self._model = session, model
        self._ingest = partial(session.client.ingest, model, **options)
        names = [os.fsencode(log.path).decode(errors="backslashreplace") for log in logs]  # all different
        sources = [f"{socket.gethostname()}:{name}"[-_MAX_SOURCE_CHARACTERS:] for name in names]
        self._logs = list(zip(sources, logs, strict=True))
        self._view: LineView | None = None  # once the service has responded
        self._outage = Outage(math.inf)
        self._received: queue.Queue[FlaggedLine | BaseException] = queue.Queue(1000)
        self._seen = 0  # number of the last flagged line that was received
        self.sent = self.flagged = 0

    def step(self) -> None:
        """Send new lines, and print flagged ones until the next step. Raises NextcharError and OSError."""
        try:
            self._view = self._view or self._begin()
            pause_s = 0.0 if sum(self._send_some(*log) for log in self._logs) else _POLL_S
        except NextcharError as error:
            if self._outage.began_at is None and error.is_retryable:
                self._session.print_note(f"{error}; waiting")
            pause_s = self._outage.delay_s(error)
        else:
            if (away_s := self._outage.end()) is not None:
                self._session.print_note(f"the service responds again, after {format_duration(away_s)}")
        deadline = time.monotonic() + pause_s
        with suppress(queue.Empty):
            while True:
                line = self._received.get(timeout=max(0.0, deadline - time.monotonic()))
                if isinstance(line, BaseException):
                    raise line
                self._receive(line)

    def _begin(self) -> LineView:
        client = self._session.client
        alphabet = client.model(self._model)["alphabet"]
        last = client.ingest_status(self._model)["flagged"]
        self._ingest(lines=b"")  # wrong options are refused now, and not when the first line comes
        # Numbers start again when Redis has lost its data, or the model was deleted and trained again.
        starts_again = any((log.shown or 0) > last for _, log in self._logs)
        for _, log in self._logs:
            log.shown = last if log.shown is None else 0 if starts_again else log.shown
            if not log.open():  # a log that is watched from its end begins now
                self._session.print_note(f"{log.path} does not exist yet; waiting for it")
            log.save()
        self._seen = min(log.shown or 0 for _, log in self._logs)
        threading.Thread(target=self._follow, args=(self._seen,), daemon=True).start()
        return LineView(self._session.out, alphabet=alphabet, has_several_files=len(self._logs) > 1)

    def _follow(self, after: int) -> None:
        try:
            for line in self._session.client.flagged_lines(self._model, after=after, is_patient=True):
                self._received.put(line)
        except BaseException as error:  # noqa: BLE001 -- raised in the main thread
            self._received.put(error)

    def _send_some(self, source: str, log: FollowedFile) -> int:
        """Send up to a batch of a log's lines; return how many bytes."""
        lines, key = log.read(_BATCH_BYTES) or (b"", "")
        if lines:
            self.sent += self._ingest(lines=lines, source=source, idempotency_key=key)["accepted"]
            log.advance()
        return len(lines)

    def _receive(self, line: FlaggedLine) -> None:
        number, starts_again, missing = line["id"], line["id"] <= self._seen, line["id"] - self._seen - 1
        if missing > 0:
            self._session.print_note(f"{missing:,} flagged lines are no longer kept; see the model's alerts")
        self._seen = number
        for source, log in self._logs:
            if starts_again or number > (log.shown or 0):
                if is_own := line["source"] == source:
                    self._show(line, log.path)
                log.shown = number
                if is_own or starts_again or number % _SAVE_AFTER == 0:
                    log.save()

    def _show(self, line: FlaggedLine, log: Path) -> None:
        self.flagged += 1
        if self._session.as_json:
            self._session.print_json(line, lines=True)
        elif self._view:
            shown = Line(0, line["line"].encode(errors="surrogatepass"), file=str(log))
            self._view.show_flagged(shown, {**line, "text": line["line"]})
