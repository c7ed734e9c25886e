"""`nextchar watch FILE…`: follow logs, have their lines scored by the service, and print those it flags.

One loop sends new lines and prints flagged ones, which a thread receives.
"""

import math
import os
import queue
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Unpack

from typer import Argument, Option

from nextchar.cli.flagged_lines import LineView
from nextchar.cli.followed_file import FollowedFile
from nextchar.cli.formatting import format_duration
from nextchar.cli.names import complete_model
from nextchar.cli.session import Session, command
from nextchar.connection import Outage
from nextchar.errors import NextcharError
from nextchar.lines import Line
from nextchar.options import IngestOptions
from nextchar.types import FlaggedLine

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
