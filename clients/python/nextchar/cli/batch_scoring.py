"""Score lines batch by batch, with retries while the service restarts.

A batch is one request. Lines answered before a connection broke are not sent again; the rest are, until they
are answered, so no line is lost or reported twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nextchar.cli.lines import Batches, Line
from nextchar.client import Client
from nextchar.errors import ServerError, ServerUnreachable

_MIN_BYTES, _MAX_BYTES = 1 << 16, 1 << 19  # of a batch
_FAST_S, _SLOW_S = 1.5, 5.0  # faster answers make the next batches larger, slower ones smaller
_MIN_RETRY_DELAY_S, _MAX_RETRY_DELAY_S = 0.25, 4.0
_MAX_BROKEN_ANSWERS = 5  # in a row without a line: then these lines are the cause
_DRIFT_LINES, _DRIFT_SHARE = 100, 0.3  # as in models/anomaly/drift.py
_STOPPING = ServerUnreachable("the service is stopping")


@dataclass
class Totals:
    """Counts of the lines scored so far, and the last `score.start` record of the service."""

    lines: int = 0
    anomalous: int = 0
    not_utf8: int = 0
    truncated: int = 0
    unusual: int = 0  # lines that score like the top 10% of the calibration's
    has_reported_drift: bool = False
    start: dict[str, Any] = field(default_factory=dict)

    def count(self, record: Mapping[str, Any]) -> None:
        """Count the record of one line."""
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
    notify: Callable[[str], None],
    patience_s: float,
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield each line that the service reports, with its record; number and offset are those in the file.

    Raises:
        ServerUnreachable: no answer to the very first request, or for longer than `patience_s`.
        ServerError: the service refuses, and not because it is busy.
        OSError: a file cannot be read.
    """
    max_bytes = _MIN_BYTES
    while pending := batches.take(max_bytes):
        began = time.monotonic()
        retries = _Retries(patience_s, notify, has_answered=bool(totals.start))
        while pending:
            done = 0
            broken: ServerUnreachable | ServerError | None = None
            try:
                for record in client.score_stream(model, [line.data for line in pending], **options):
                    if record["object"] == "score.start":
                        _note_start(record, totals, notify)
                        retries.note_start()
                        continue
                    retries.note_progress()
                    if record["object"] == "score.end":
                        totals.lines += record["lines"] - done
                        done = record["lines"]
                        _note_drift(record, totals, notify)
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
                retries.wait(broken or _STOPPING, waiting=len(pending))
        took_s = time.monotonic() - began
        if took_s > _SLOW_S:
            max_bytes = max(_MIN_BYTES, max_bytes // 2)
        elif took_s < _FAST_S:
            max_bytes = min(_MAX_BYTES, max_bytes * 2)


class _Retries:
    """When to retry, for how long, and the messages about it."""

    def __init__(self, patience_s: float, notify: Callable[[str], None], *, has_answered: bool) -> None:
        self._patience_s, self._notify = patience_s, notify
        self.has_answered = has_answered
        self._away_since: float | None = None
        self._delay_s = _MIN_RETRY_DELAY_S
        self._broken_answers = 0
        self._has_started = False

    def note_start(self) -> None:
        """Note that an answer has begun."""
        self.has_answered = self._has_started = True

    def note_progress(self) -> None:
        """Note that lines have been scored: the service works."""
        self._has_started, self._broken_answers = False, 0
        if self._away_since is not None:
            self._notify(f"the service is back after {time.monotonic() - self._away_since:.1f} s")
            self._away_since, self._delay_s = None, _MIN_RETRY_DELAY_S

    def wait(self, error: ServerUnreachable | ServerError, *, waiting: int) -> None:
        """Sleep before a retry, or raise the error if it is not retryable or has lasted too long."""
        is_retryable = error.is_retryable if isinstance(error, ServerError) else self.has_answered
        now = time.monotonic()
        if self._has_started and isinstance(error, ServerUnreachable):
            self._broken_answers += 1
            is_retryable = is_retryable and self._broken_answers < _MAX_BROKEN_ANSWERS
        self._has_started = False
        if not is_retryable or (self._away_since is not None and now - self._away_since > self._patience_s):
            raise error
        if self._away_since is None:
            self._away_since = now
            count = f"{waiting:,} line{'s wait' if waiting != 1 else ' waits'}"
            self._notify(f"{error}; {count}, retrying for {self._patience_s:g} s")
        time.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, _MAX_RETRY_DELAY_S)


def _note_start(record: dict[str, Any], totals: Totals, notify: Callable[[str], None]) -> None:
    if totals.start and totals.start["model"] != record["model"]:
        notify(f"{record['model']} now answers instead of {totals.start['model']}")
    totals.start = record


def _note_drift(record: dict[str, Any], totals: Totals, notify: Callable[[str], None]) -> None:
    """Report once that lines have drifted: the service's rule, over all batches, since one may be small."""
    totals.unusual += record.get("unusual", 0)
    if (
        totals.has_reported_drift
        or totals.lines < _DRIFT_LINES
        or totals.unusual <= _DRIFT_SHARE * totals.lines
    ):
        return
    totals.has_reported_drift = True
    model = totals.start.get("model", "MODEL").partition("@")[0]
    notify(
        f"these lines don't look like the calibration data: {totals.unusual / totals.lines:.0%} of them are"
        " as unusual as its most unusual 10%; expect more false alarms than you asked for. If these lines are"
        f" normal, calibrate on recent ones: nextchar calibrate {model} FILE"
    )


def _placed(record: dict[str, Any], line: Line) -> dict[str, Any]:
    """Return a record with the line's place in its file instead of its place in the request."""
    placed = {**record, "line": line.number, "offset": line.offset}
    if "not_utf8" in record:
        placed["not_utf8"] = {
            **record["not_utf8"],
            "offset": line.offset + record["not_utf8"]["offset"] - record["offset"],
        }
    return placed
