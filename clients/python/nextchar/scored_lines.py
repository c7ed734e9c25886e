"""Scores of lines without end: batch by batch, in order, through restarts of the service."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from json import loads
from typing import Any, cast

from nextchar import calls
from nextchar.answers import ScoredLine
from nextchar.calls import segment
from nextchar.effects import Emit, Line, LineSource, Request, Stream, read, sleep, take
from nextchar.errors import NextcharError, ServerError, ServerUnreachable, error_in_stream
from nextchar.operations import FIRST_DELAY_S, MAX_DELAY_S, MAX_RETRY_AFTER_S, Settings, fetch, open_ok
from nextchar.options import LineOptions

_TIMEOUT_S = 120.0  # with `only="anomalous"` the server is silent about normal lines
_MIN_BATCH_BYTES, _MAX_BATCH_BYTES = 1 << 16, 1 << 19
_FAST_S, _SLOW_S = 1.5, 5.0  # a batch answered faster than this makes batches larger, slower: smaller
_MAX_BREAKS = 5  # of answers that began and then broke off without a line: the lines are at fault


def score_stream(
    settings: Settings, /, model: str, lines: Sequence[bytes], **options: str | float | bool
) -> Stream[dict[str, Any]]:
    """Score lines in one request, a mebibyte together at most; yield the service's records as they come.

    They are a `score.start`, a `score.line` for each line that is returned, and a `score.end`; `options`
    are the request's query parameters. Raises ServerUnreachable when the answer breaks off. `score_lines`
    is more convenient.
    """
    yield from open_ok(_line_request(model, lines, options))
    decoder = _RecordDecoder()
    while piece := (yield from read()):
        for record in decoder.feed(piece):
            yield Emit(record)
            if record["object"] == "score.end":
                return
    raise ServerUnreachable(f"{settings.server} broke off in the middle of its answer; ask again")


def score_lines(
    settings: Settings, model: str, source: LineSource, options: LineOptions
) -> Stream[ScoredLine]:
    """Emit the score of each line of a source, in order; lines whose answer broke off are sent again."""
    query: dict[str, Any] = {"only": "all", "detail": "line", "explain": True, **options}
    own_stream = query.get("context") == "stream" and "stream_id" not in query
    if own_stream:
        query["stream_id"] = f"nextchar-{uuid.uuid4().hex}"
    retry = _Retry(settings)
    max_bytes = _MIN_BATCH_BYTES
    try:
        while batch := (yield from take(source, max_bytes)):
            began = time.monotonic()
            yield from _score_batch(settings, model, batch, query, retry)
            took_s = time.monotonic() - began
            if took_s > _SLOW_S:
                max_bytes = max(_MIN_BATCH_BYTES, max_bytes // 2)
            elif took_s < _FAST_S:
                max_bytes = min(_MAX_BATCH_BYTES, max_bytes * 2)
    finally:
        source.close()
    if own_stream and retry.has_answered:
        yield from fetch(settings, calls.forget_stream(model, query["stream_id"]))


def _score_batch(
    settings: Settings, model: str, pending: list[Line], query: Mapping[str, Any], retry: "_Retry"
) -> Stream[ScoredLine]:
    while pending:
        done = 0
        error: NextcharError = ServerUnreachable(f"{settings.server} broke off in the middle of its answer")
        try:
            yield from open_ok(_line_request(model, [line.data for line in pending], query))
            decoder = _RecordDecoder()
            while piece := (yield from read()):  # to its end, so that the connection can be used again
                for record in decoder.feed(piece):
                    if record["object"] == "score.start":
                        retry.begin()
                    elif record["object"] == "score.end":
                        done = record["lines"]
                        retry.progress()
                    else:
                        done = record["line"]
                        retry.progress()
                        yield Emit(_placed(record, pending[done - 1]))
        except NextcharError as caught:
            error = caught
        pending = pending[done:]
        if pending:
            yield from sleep(retry.delay_s(error))


class _Retry:
    """How long to wait before lines without an answer are sent again, and when to give up."""

    def __init__(self, settings: Settings) -> None:
        self._patience_s = settings.patience_s
        self.has_answered = False
        self._has_begun = False
        self._away_since: float | None = None
        self._delay_s = FIRST_DELAY_S
        self._breaks = 0

    def begin(self) -> None:
        """Note that an answer begins."""
        self.has_answered = self._has_begun = True

    def progress(self) -> None:
        """Note that lines were scored."""
        self._has_begun, self._breaks = False, 0
        self._away_since, self._delay_s = None, FIRST_DELAY_S

    def delay_s(self, error: NextcharError) -> float:
        """Return how long to wait; raise the error if it will not pass or has lasted too long."""
        is_passing = error.is_retryable and (self.has_answered or isinstance(error, ServerError))
        if self._has_begun and isinstance(error, ServerUnreachable):
            self._breaks += 1
            is_passing = is_passing and self._breaks < _MAX_BREAKS
        self._has_begun = False
        now = time.monotonic()
        self._away_since = self._away_since or now
        if not is_passing or now - self._away_since > self._patience_s:
            raise error
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MAX_DELAY_S)
        if isinstance(error, ServerError) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, MAX_RETRY_AFTER_S))
        return delay_s


class _RecordDecoder:
    """Decodes newline-delimited JSON records. Raises ServerError for a record that is an error."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Take the next bytes; yield the records that end in them."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            record = loads(line)
            if record["object"] == "error":
                raise error_in_stream(record)
            yield record


def _line_request(model: str, lines: Sequence[bytes], query: Mapping[str, Any]) -> Request[Any]:
    return Request(
        "POST",
        f"/v1/models/{segment(model)}/score",
        params=query,
        content=b"".join(line + b"\n" for line in lines),
        headers={"Content-Type": "text/plain; charset=utf-8"},
        timeout_s=_TIMEOUT_S,
    )


def _placed(record: dict[str, Any], line: Line) -> ScoredLine:
    """Return a record with the line's number among all lines, its text, and offsets within the line."""
    offset = record.pop("offset", 0)
    del record["object"]
    if "not_utf8" in record:
        record["not_utf8"] = {**record["not_utf8"], "offset": record["not_utf8"]["offset"] - offset}
    text = line.text if isinstance(line.text, str) else line.text.decode(errors="replace")
    return cast(ScoredLine, {**record, "line": line.number, "text": text})
