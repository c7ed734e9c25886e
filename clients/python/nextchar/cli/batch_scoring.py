"""Lines to the service and their scores back, batch by batch, through restarts of the service.

A batch is one request. What of it was answered before a connection broke is not sent again; the rest is,
until it is answered, so no line is lost and none is told twice. Knows no terminal.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nextchar.cli.lines import Batches, Line
from nextchar.client import Client
from nextchar.errors import ServerError, ServerUnreachable

_LEAST_BYTES, _MOST_BYTES = 1 << 16, 1 << 19  # of a batch
_QUICK_S, _SLOW_S = 1.5, 5.0  # an answer quicker than this asks for larger batches, a slower one for smaller
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.25, 4.0
_MOST_BREAKS = 5  # of answers that had begun and told of no line: then the lines are at fault, not the moment
_DRIFT_LINES, _DRIFT_SHARE = 100, 0.3  # as in models/anomaly/drift.py
_STOPPING = ServerUnreachable("the service is stopping")


@dataclass
class Totals:
    """What has been scored so far, and what the service said of itself at the beginning of its answers."""

    lines: int = 0
    anomalous: int = 0
    not_utf8: int = 0
    truncated: int = 0
    unusual: int = 0  # as the most unusual tenth of the calibration's lines
    told_of_drift: bool = False
    start: dict[str, Any] = field(default_factory=dict)

    def count(self, record: Mapping[str, Any]) -> None:
        """Take account of the record of one line."""
        self.anomalous += bool(record.get("anomalous"))
        self.not_utf8 += "not_utf8" in record
        self.truncated += "truncated" in record


def score_all(
    client: Client,
    model: str,
    batches: Batches,
    options: Mapping[str, Any],
    totals: Totals,
    *,
    say: Callable[[str], None],
    patience_s: float,
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield each line that the service tells of, with its record, whose number and offset are the file's.

    Raises:
        ServerUnreachable: nobody answered the very first request, or for longer than the patience.
        ServerError: the service refuses for good.
        OSError: a file cannot be read.
    """
    most_bytes = _LEAST_BYTES
    while pending := batches.take(most_bytes):
        began = time.monotonic()
        patience = _Patience(patience_s, say, has_answered=bool(totals.start))
        while pending:
            done = 0
            broken: ServerUnreachable | ServerError | None = None
            try:
                for record in client.score_stream(model, [line.data for line in pending], **options):
                    if record["object"] == "score.start":
                        _note_start(record, totals, say)
                        patience.begun()
                        continue
                    patience.answered()
                    if record["object"] == "score.end":
                        totals.lines += record["lines"] - done
                        done = record["lines"]
                        _note_drift(record, totals, say)
                    else:
                        totals.lines += record["line"] - done
                        done = record["line"]
                        totals.count(record)
                        line = pending[done - 1]
                        yield line, _placed(record, line)
            except (ServerUnreachable, ServerError) as error:
                broken = error
            pending = pending[done:]
            if pending:
                patience.wait(broken or _STOPPING, waiting=len(pending))
        took_s = time.monotonic() - began
        if took_s > _SLOW_S:
            most_bytes = max(_LEAST_BYTES, most_bytes // 2)
        elif took_s < _QUICK_S:
            most_bytes = min(_MOST_BYTES, most_bytes * 2)


class _Patience:
    """How long to try again, and what to say of it."""

    def __init__(self, patience_s: float, say: Callable[[str], None], *, has_answered: bool) -> None:
        self._patience_s, self._say = patience_s, say
        self.has_answered = has_answered
        self._gone_since: float | None = None
        self._delay_s = _FIRST_RETRY_S
        self._breaks = 0
        self._has_begun = False

    def begun(self) -> None:
        """Note that the service begins an answer."""
        self.has_answered = self._has_begun = True

    def answered(self) -> None:
        """Note that lines are being scored."""
        self._has_begun, self._breaks = False, 0
        if self._gone_since is not None:
            self._say(f"the service is back after {time.monotonic() - self._gone_since:.1f} s; going on")
            self._gone_since, self._delay_s = None, _FIRST_RETRY_S

    def wait(self, error: ServerUnreachable | ServerError, *, waiting: int) -> None:
        """Sleep for a while, or raise the error if it will not pass or has been there for too long."""
        passing = error.is_retryable if isinstance(error, ServerError) else self.has_answered
        now = time.monotonic()
        if self._has_begun and isinstance(error, ServerUnreachable):
            self._breaks += 1
            passing = passing and self._breaks < _MOST_BREAKS
        self._has_begun = False
        if not passing or (self._gone_since is not None and now - self._gone_since > self._patience_s):
            raise error
        if self._gone_since is None:
            self._gone_since = now
            held = f"{waiting:,} line{'s wait' if waiting != 1 else ' waits'}"
            self._say(f"{error}; {held}, trying again for {self._patience_s:g} s")
        time.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, _LONGEST_RETRY_S)


def _note_start(record: dict[str, Any], totals: Totals, say: Callable[[str], None]) -> None:
    if totals.start and totals.start["model"] != record["model"]:
        say(f"{record['model']} answers from now on, no longer {totals.start['model']}")
    totals.start = record


def _note_drift(record: dict[str, Any], totals: Totals, say: Callable[[str], None]) -> None:
    """Say once that lines have changed: by the service's rule, but for all batches, which may be small."""
    totals.unusual += record.get("unusual", 0)
    if totals.told_of_drift or totals.lines < _DRIFT_LINES or totals.unusual <= _DRIFT_SHARE * totals.lines:
        return
    totals.told_of_drift = True
    model = totals.start.get("model", "MODEL").partition("@")[0]
    say(
        f"these lines don't look like the calibration data: {totals.unusual / totals.lines:.0%} of them are"
        " as unusual as its most unusual 10%; expect more false alarms than you asked for. If these lines are"
        f" normal, calibrate on recent ones: nextchar calibrate {model} FILE"
    )


def _placed(record: dict[str, Any], line: Line) -> dict[str, Any]:
    """Return a record with the line's place in its file, instead of that in the request."""
    placed = {**record, "line": line.number, "offset": line.offset}
    if "not_utf8" in record:
        placed["not_utf8"] = {
            **record["not_utf8"],
            "offset": line.offset + record["not_utf8"]["offset"] - record["offset"],
        }
    return placed
