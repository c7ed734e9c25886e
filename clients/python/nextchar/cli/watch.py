"""`nextchar watch FILE…`: follow logs, have their lines scored by the service, and print those it flags.

The main thread sends lines, with the offset of each request saved before and after; a second thread prints
flagged lines. Both wait for a service that is away.
"""

import hashlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from nextchar.cli.flagged_lines import Alphabet, decode_spans, explain, highlighted, rarity
from nextchar.cli.followed_file import Chunk, FollowedFile
from nextchar.cli.formatting import format_duration, printable
from nextchar.cli.names import complete_model
from nextchar.cli.session import Session, command, drop_output
from nextchar.cli.watch_state import StateFile
from nextchar.connection import Outage
from nextchar.errors import NextcharError
from nextchar.ingest import FlaggedLine
from nextchar.lines import Line

T = TypeVar("T")

_POLL_S = 0.25
_BATCH_BYTES = 256 << 10
_MAX_SOURCE_CHARACTERS = 200
_RARITY_COLUMNS = 14
_SAVE_AFTER = 200  # flagged lines of other sources; the service keeps more


@command
def watch(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Logs to follow.", show_default=False)],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="The model.", autocompletion=complete_model),
    ],
    false_alarms: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="False-alarm rate. Default: 0.01."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="NAME", help="Calibration to compare with.")
    ] = None,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Begin a log that was never watched at its start, not its end."),
    ] = False,
) -> None:
    """Follow logs through rotation, and print the lines that the service flags.

    After a restart it continues where it stopped. While the service is away it waits.
    Flagged lines also become alerts. Ctrl-C ends it with a summary.

    Example: nextchar watch /var/log/auth.log --model sshd
    """
    with ExitStack() as stack:
        logs = [
            stack.enter_context(closing(_Log(session, model, file.absolute(), from_start=from_start)))
            for file in dict.fromkeys(files)
        ]
        alphabet: Alphabet = _wait_for(session, lambda: session.client.model(model)["alphabet"])
        watching = _Watching(session, model, logs, alphabet, false_alarms, calibration)
        with _summary(watching):
            watching.run()


class _Log:
    """One log: the file, its saved state and its source."""

    def __init__(self, session: Session, model: str, path: Path, *, from_start: bool) -> None:
        if path.is_dir():
            raise NextcharError(f"{path} is a folder; name the logs in it")
        self.path = path
        name = os.fsencode(path).decode(errors="backslashreplace")  # which no other log's name becomes
        self.source = f"{socket.gethostname()}:{name}"[-_MAX_SOURCE_CHARACTERS:]
        self.state_file = StateFile(session.client.server, model, path)
        self.state = self.state_file.load()
        self.file = FollowedFile(path, self.state.position, from_start=from_start, note=session.print_note)
        self._lock = threading.Lock()  # guards the state, which both threads change

    def read(self) -> Chunk | None:
        """Return the lines to send next: those that may have been sent before, or new ones."""
        return self.file.read(_BATCH_BYTES, end=self.state.sending_to) if self.open() else None

    def open(self) -> bool:
        """Open the log; return whether there is one. Forget what was being sent if that is another file."""
        exists = self.file.open()
        if self.file.position != self.state.position:
            self.save(position=self.file.position, sending_to=None)
        return exists

    def save(self, **changes: object) -> None:
        with self._lock:
            self.state = replace(self.state, **changes)  # type: ignore[arg-type]
            self.state_file.save(self.state)

    def save_printed(self, number: int, *, if_behind_by: int = 1) -> None:
        """Save that the flagged lines up to a number need not be printed, if that many more are not saved."""
        with self._lock:
            if number >= (self.state.printed or 0) + if_behind_by:
                self.state = replace(self.state, printed=number)
                self.state_file.save(self.state)

    def close(self) -> None:
        self.file.close()
        self.state_file.close()


@dataclass
class _Watching:
    """Sends the lines of logs and prints flagged ones."""

    session: Session
    model: str
    logs: Sequence[_Log]
    alphabet: Alphabet
    false_alarms: float | None
    calibration: str | None
    sent: int = 0
    flagged: int = 0
    began_s: float = field(default_factory=time.monotonic)
    _seen: int = 0  # number of the last flagged line that was printed, or is of another source
    _failure: BaseException | None = None

    def run(self) -> None:
        """Send lines until Ctrl-C. Raises NextcharError, and OSError for a log that cannot be read."""
        client = self.session.client
        first = _wait_for(self.session, lambda: client.ingest_status(self.model)["flagged"])
        self._send(b"")  # wrong options are refused now, and not when the first line comes
        # Numbers start again when Redis has lost its data, or the model was deleted and trained again.
        starts_again = any((log.state.printed or 0) > first for log in self.logs)
        for log in self.logs:
            if log.state.printed is None:
                log.save(printed=first)
            elif starts_again:
                log.save(printed=0)
            if not log.open():  # a log that is watched from its end begins now
                self.session.print_note(f"{log.path} does not exist yet; waiting for it")
        threading.Thread(target=self._print_all, name="flagged lines", daemon=True).start()
        try:
            while True:
                has_sent = [self._send_some(log) for log in self.logs]
                if self._failure is not None:
                    raise self._failure
                if not any(has_sent):
                    time.sleep(_POLL_S)
        finally:
            for log in self.logs:
                log.save_printed(self._seen)

    def _send_some(self, log: _Log) -> bool:
        chunk = log.read()
        if chunk is None:
            return False
        log.save(position=chunk.start, sending_to=chunk.end)
        self.sent += self._send(chunk.data, source=log.source, idempotency_key=_key(log, chunk))
        log.file.advance(chunk)
        log.save(position=log.file.position, sending_to=None)
        return True

    def _send(self, lines: bytes, *, source: str | None = None, idempotency_key: str | None = None) -> int:
        """Send lines; return how many were accepted."""
        ingest = partial(
            self.session.client.ingest,
            self.model,
            lines,
            calibration=self.calibration,
            false_alarms=self.false_alarms,
            source=source,
            idempotency_key=idempotency_key,
        )
        return _wait_for(self.session, ingest)["accepted"]

    def _print_all(self) -> None:
        try:
            after = min(log.state.printed or 0 for log in self.logs)
            by_source = {log.source: log for log in self.logs}
            lines = self.session.client.flagged_lines(self.model, after=after, is_patient=True)
            for line in lines:
                if line["id"] > after + 1:
                    self.session.print_note(
                        f"{line['id'] - after - 1:,} flagged lines are no longer kept for this command; the"
                        " model's alerts count them"
                    )
                if line["id"] <= after:  # numbers start again
                    self._seen = 0
                    for one in self.logs:
                        one.save(printed=0)
                log = by_source.get(line["source"] or "")
                if log and line["id"] > (log.state.printed or 0):
                    self._print(line, log)
                    log.save(printed=line["id"])
                after = self._seen = line["id"]
                for one in self.logs:
                    one.save_printed(after, if_behind_by=_SAVE_AFTER)
        except BaseException as error:  # noqa: BLE001 -- raised in the main thread
            self._failure = error

    def _print(self, line: FlaggedLine, log: _Log) -> None:
        self.flagged += 1
        session = self.session
        if session.as_json:
            session.print_json(line, lines=True)
            return
        name = f"{log.path}:" if len(self.logs) > 1 else ""
        if not session.out.is_terminal:
            session.out.file.write(f"{name}{line['line']}\n")
            session.out.file.flush()
            return
        record = {**line, "text": line["line"]}
        shown = Line(line["id"], line["line"].encode(errors="surrogatepass"))
        text, spans = decode_spans(shown, record, self.alphabet)
        row = Text(f"{rarity(line['p_value']):<{_RARITY_COLUMNS}}", "yellow")
        row.append(printable(name), "bold")
        row.append(highlighted(text, spans, session.out))
        session.out.print(row, soft_wrap=True)
        for sentence in explain(text, spans):
            session.out.print(Text(" " * _RARITY_COLUMNS + sentence, style="dim"), soft_wrap=True)


@contextmanager
def _summary(watching: _Watching) -> Iterator[None]:
    """Print a summary at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        lines, flagged = watching.sent, watching.flagged
        seconds = time.monotonic() - watching.began_s
        watching.session.print_note(
            f"{lines:,} line{'s' if lines != 1 else ''} sent, {flagged:,} flagged in"
            f" {format_duration(seconds)}; the next `nextchar watch` continues from here"
        )
        raise
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(1) from None


def _key(log: _Log, chunk: Chunk) -> str:
    """Return a key that only the same lines at the same place have."""
    start = chunk.start
    place = (log.path, start.device, start.inode, start.generation, start.offset, chunk.end)
    digest = hashlib.sha256("\n".join(map(str, place)).encode(errors="surrogateescape"))
    digest.update(hashlib.sha256(chunk.data).digest())
    return digest.hexdigest()


def _wait_for(session: Session, call: Callable[[], T]) -> T:
    """Return what a call returns, once the service is there. Raises NextcharError if it will not help."""
    outage = Outage(math.inf)
    while True:
        try:
            result = call()
        except NextcharError as error:
            if outage.began_at is None and error.is_retryable:
                session.print_note(f"{error}; waiting")
            delay_s = outage.delay_s(error)
        else:
            if (away_s := outage.end()) is not None:
                session.print_note(f"the service responds again, after {format_duration(away_s)}")
            return result
        time.sleep(delay_s)
