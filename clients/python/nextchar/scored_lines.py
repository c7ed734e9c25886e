"""Scores of lines without end: batch by batch, in order, through restarts of the service."""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from json import loads
from typing import Any, cast

from nextchar.calls.inference import ScoreCalls
from nextchar.connection import Outage, omit_none, path_of
from nextchar.errors import NextcharError, ServerUnreachable, error_in_stream
from nextchar.lines import Line, LineSource, joined, split_lines
from nextchar.options import LineOptions
from nextchar.types import ScoredLine

_TIMEOUT_S = 120.0  # with `only="anomalous"` the server is silent about normal lines
_MIN_BATCH_BYTES, _MAX_BATCH_BYTES = 1 << 16, 1 << 19
_FAST_S, _SLOW_S = 1.5, 5.0  # a batch scored faster than this makes batches larger, slower: smaller
_OWN_STREAM = "nextchar-"  # begins the ids of streams that no caller has named
_EVENT_WAIT_S = 2.0  # for lines that may belong to the last event
_MAX_BREAKS = 5  # of responses that began and then broke off without a line: the lines are at fault

Record = dict[str, Any]


class LineScoring(ScoreCalls):
    """The calls that score lines as they come."""

    async def score_stream(
        self, /, model: str, lines: Sequence[bytes], **options: str | float | bool
    ) -> AsyncGenerator[Record, None]:
        """Score lines in one request, a mebibyte together at most; yield the service's records as they come.

        They are a `score.start`, a `score.line` for each line that is returned, and a `score.end`; `options`
        are the request's query parameters. Raises ServerUnreachable when the response breaks off.
        `score_lines` is more convenient.
        """
        opened = await self._open(
            "POST",
            path_of("models", model, "score"),
            params=options,
            content=b"".join(line + b"\n" for line in lines),
            headers={"Content-Type": "text/plain; charset=utf-8"},
            timeout_s=_TIMEOUT_S,
        )
        is_whole = False
        async with aclosing(opened) as response:  # read to its end, so that it can be used again
            async for line in split_lines(self._pieces(response)):
                record = loads(line)
                if record["object"] == "error":
                    raise error_in_stream(record)
                is_whole = record["object"] == "score.end"
                yield record
        if not is_whole:
            raise ServerUnreachable(
                f"{self.server} closed the connection before the response was complete; retry"
            )

    async def score_source(
        self,
        model: str,
        source: LineSource,
        query: Mapping[str, Any],
        *,
        patience_s: float | None = None,
        min_interval_s: float = 0.0,
    ) -> AsyncGenerator[tuple[Line | None, Record], None]:
        """Score the lines of a source batch by batch; those whose response broke off are sent again.

        Yields the service's records, each `score.line` with its line, or the lines of its event as one. And
        what happens to the connection: `outage.start` with the error and the number of lines that wait, and
        `outage.end` with its `seconds`. At least `min_interval_s` pass from one batch to the next;
        `patience_s` replaces the client's. With no `stream_id` the batches are judged as one request, by a
        stream that is forgotten at the end.
        """
        own_stream = f"{_OWN_STREAM}{uuid.uuid4().hex}"
        query = {"stream_id": own_stream, **query}
        retry = _Retry(self.patience_s if patience_s is None else patience_s)
        max_bytes = _MIN_BATCH_BYTES
        held: list[Line] = []  # of the last event, which may go on
        try:
            while True:
                new = await source.take(max_bytes, wait_s=_EVENT_WAIT_S if held else None)
                if not (batch := held + new):
                    break
                held = []
                began = time.monotonic()
                request = {**query, "more": bool(new)}
                async with aclosing(self._score_batch(model, batch, request, retry)) as records:
                    async for line, record in records:
                        if record["object"] == "score.end":
                            held = batch[len(batch) - record.get("held", 0) :]
                        yield line, record
                took_s = time.monotonic() - began
                if took_s > _SLOW_S:
                    max_bytes = max(_MIN_BATCH_BYTES, max_bytes // 2)
                elif took_s < _FAST_S:
                    max_bytes = min(_MAX_BATCH_BYTES, max_bytes * 2)
                if took_s < min_interval_s:
                    await self.transport.sleep(min_interval_s - took_s)
        finally:
            source.close()
            if retry.has_responded and query.get("stream_id") == own_stream:
                with suppress(NextcharError):  # its state expires within a day
                    await self.forget_stream(model, own_stream)

    async def _score_numbered(
        self, model: str, source: LineSource, options: LineOptions
    ) -> AsyncGenerator[ScoredLine, None]:
        """Yield the scores of the lines of a source as `score_lines` does."""
        query: dict[str, Any] = {"only": "all", "detail": "line", "explain": True, **omit_none(**options)}
        async with aclosing(self.score_source(model, source, query)) as records:
            async for line, record in records:
                if line is not None:
                    yield _placed(record, line)

    async def _score_batch(
        self, model: str, pending: list[Line], query: Mapping[str, Any], retry: "_Retry"
    ) -> AsyncGenerator[tuple[Line | None, Record], None]:
        while pending:
            done = 0
            error: NextcharError = ServerUnreachable("the service is stopping")
            try:
                scored = self.score_stream(model, [line.data for line in pending], **query)
                async with aclosing(scored) as records:
                    async for record in records:
                        if record["object"] == "score.start":
                            retry.begin_response()
                            yield None, record
                            continue
                        if (away_s := retry.end()) is not None:
                            yield None, {"object": "outage.end", "seconds": away_s}
                        if record["object"] == "score.end":
                            done = record["lines"]
                            if done + record.get("held", 0) == len(pending):  # else it has not read all lines
                                done = len(pending)
                            else:
                                record.pop("held", None)
                            yield None, record
                        else:
                            first, done = record["line"] - 1, record["line"] - 1 + record.get("lines", 1)
                            yield joined(pending[first:done]), record
            except NextcharError as caught:
                error = caught
            pending = pending[done:]
            if pending:
                is_new = retry.began_at is None
                delay_s = retry.delay_s(error)
                query = _query_after_break(query)
                if is_new:
                    yield None, {"object": "outage.start", "error": error, "lines": len(pending)}
                await self.transport.sleep(delay_s)


class _Retry(Outage):
    """When to send lines again: not to a server that never responded, nor lines that break every response."""

    def __init__(self, patience_s: float) -> None:
        super().__init__(patience_s)
        self.has_responded = self._has_begun = False
        self._breaks = 0

    def begin_response(self) -> None:
        self.has_responded = self._has_begun = True

    def end(self) -> float | None:
        """Note that lines were scored; as `Outage.end`."""
        self._has_begun, self._breaks = False, 0
        return super().end()

    def delay_s(self, error: NextcharError) -> float:
        if isinstance(error, ServerUnreachable):
            self._breaks += self._has_begun
            if not self.has_responded or self._breaks >= _MAX_BREAKS:
                raise error
        self._has_begun = False
        return super().delay_s(error)


def _placed(record: dict[str, Any], line: Line) -> ScoredLine:
    """Return a record with the line's number among all lines, its text, and offsets within the line."""
    offset = record.pop("offset", 0)
    del record["object"]
    if "not_utf8" in record:
        record["not_utf8"] = {**record["not_utf8"], "offset": record["not_utf8"]["offset"] - offset}
    text = line.text if isinstance(line.text, str) else line.text.decode(errors="replace")
    return cast(ScoredLine, {**record, "line": line.number, "text": text})


def _query_after_break(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the query for lines whose response broke off: what was lost is flagged again, not never."""
    is_own = str(query["stream_id"]).startswith(_OWN_STREAM)
    if not is_own or query.get("context") == "stream":
        return query
    return {**query, "stream_id": f"{_OWN_STREAM}{uuid.uuid4().hex}"}
