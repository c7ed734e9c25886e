"""A streamed request whose response is a stream too: lines are scored while more are sent.

A task reads the body into a small buffer and pauses when it is full. The lines that have arrived when a batch
is done are the next batch: a file is read in large batches, and a single line is scored at once. If the
client does not read its response, its body is not read either.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import anyio
from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextchar.app.access.keys import Key
from nextchar.app.http.bodies import gunzip_of
from nextchar.app.http.errors import status_and_body
from nextchar.app.http.event_streams import UNREAD_S
from nextchar.app.http.incoming_body import receive_ahead
from nextchar.app.http.limits import SHORT_SCORES, STREAMED_LINES
from nextchar.app.http.rules import content_type
from nextchar.app.http.services import Services
from nextchar.app.http.threads import Check, run_in_thread
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.scoring.calibration_schemas import calibration_body
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.app.scoring.schemas import StreamBody, StreamQuery
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.app.scoring.streams import Owner, StreamLock, StreamLocks
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer, Judged
from nextchar.models.anomaly.line_scores import StoredCalibration
from nextchar.models.anomaly.stream_scorer import StreamScorer, json_line
from nextchar.models.errors import DomainError
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import State
from nextchar.models.text.events import WAIT_S
from nextchar.models.text.lines import LineSplitter
from nextchar.store.gunzip import Gunzip

log = logging.getLogger("nextchar.api")

LINE_TYPES = ("text/plain", "application/x-ndjson")
"""The content types of streams of lines."""

_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 256 << 10
_SHORT_BATCH_BYTES = 1_000
_POLL_S = 0.5  # how often a waiting stream checks whether the server is stopping


def is_streamed(scope: Scope) -> bool:
    """Return whether a request's content type is one of LINE_TYPES."""
    return content_type(Headers(scope=scope)) in LINE_TYPES


def stream_owner(request: Request) -> Owner:
    """Return the owner of the streams of lines that a request continues. A key with patterns has its own."""
    key: Key | None = getattr(request.state, "key", None)
    return Owner(key.name, is_private=bool(key.models)) if key else Owner()


def hold_stream(
    services: Services, loaded: Loaded, stream_id: str, owner: Owner
) -> AbstractAsyncContextManager[StreamLock]:
    """Return the lock of a stream of lines that a model reads, to be held for a block."""
    size, model_id = loaded.engine.state_size, loaded.saved.card.id
    locks = services[StreamLocks]
    return locks.hold(loaded.reference, stream_id, size=size, owner=owner, model_id=model_id)


class ScoreStreamResponse(Response):
    """The response to a stream of lines. Call `open` before it is sent: it raises the request's errors."""

    media_type = "application/x-ndjson"

    def __init__(self, services: Services, model: str, query: StreamQuery, request: Request) -> None:
        self._services, self._model, self._query = services, model, query
        self._is_json = content_type(request.headers) != "text/plain"
        self._encoding = request.headers.get("content-encoding", "identity")
        self._owner = stream_owner(request)
        self._loaded: Loaded | None = None
        self._is_gone = threading.Event()
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def open(self) -> None:
        """Load the model and its calibration. Raises DomainError."""
        self._gunzip = gunzip_of(self._encoding)
        services = self._services
        loaded = await services[Engines].acquire_async(self._model)

        def make() -> BodyScorer:
            return BodyScorer(
                loaded,
                services.calibrations.find(loaded.saved, self._query.calibration),
                self._query,
                self._check,
                earlier=services[EarlierLines],
                count=partial(services[ScoredLines].add, loaded.saved.card.name),
                is_json=self._is_json,
            )

        try:
            self._scorer = await anyio.to_thread.run_sync(make, limiter=services.pools.limiter(SHORT_SCORES))
        except BaseException:
            services[Engines].release(loaded)
            raise
        self._loaded = loaded

    def _check(self) -> None:
        if self._is_gone.is_set():
            raise _Disconnected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response."""
        assert self._loaded is not None, "not opened"
        body = BodyBuffer(receive, self._gunzip, self._is_gone)
        reading = asyncio.ensure_future(body.read_all())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send, self._scorer.start())
            try:
                await self._score_all(body, send)
            except (_Disconnected, OSError, TimeoutError):
                raise
            except Exception as error:  # reported in a record; the end record follows
                if not isinstance(error, DomainError | RedisError):
                    log.exception("scoring lines by %s", self._model)
                await self._send(
                    send, json_line({"object": "error"} | status_and_body(error)[1].model_dump())
                )
            await self._send(send, self._scorer.end())
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (_Disconnected, OSError, TimeoutError):
            pass  # the client has disconnected or does not read
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._services[Engines].release(self._loaded)

    async def _score_all(self, body: "BodyBuffer", send: Send) -> None:
        # Expected characters are a hundred times as long as the lines, so their batches are smaller.
        max_bytes = _BATCH_BYTES // 64 if self._query.expected else _BATCH_BYTES
        while True:
            wait_s = WAIT_S if self._scorer.held else None
            taken = await body.take(self._services.stopping.is_set, max_bytes, wait_s=wait_s)
            if taken is None:  # the line that has not ended is left out: its client sends it again
                return
            data, is_last = taken
            records = await self._score(data, is_last=is_last)
            if records:
                await self._send(send, records)
            if is_last:
                return

    async def _score(self, data: bytes, *, is_last: bool) -> bytes:
        services, loaded, stream_id = self._services, self._loaded, self._query.stream_id
        assert loaded is not None, "not opened"
        work = partial(self._scorer.score, data, is_last=is_last)
        # A few new lines do not wait for the large batches of other streams.
        threads = services.pools.limiter(SHORT_SCORES if len(data) <= _SHORT_BATCH_BYTES else STREAMED_LINES)
        if stream_id is None:
            return await anyio.to_thread.run_sync(work, limiter=threads)
        async with hold_stream(services, loaded, stream_id, self._owner) as turn:
            return await anyio.to_thread.run_sync(partial(work, turn=turn), limiter=threads)

    async def _send(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(UNREAD_S):
            await send({"type": "http.response.body", "body": data, "more_body": True})


class _Disconnected(Exception):
    """The client has disconnected."""


class BodyBuffer:
    """Reads the request's body ahead, into a buffer of bounded size."""

    def __init__(self, receive: Receive, gunzip: Gunzip | None, is_gone: threading.Event) -> None:
        """Read with `receive`; set `is_gone` when the client disconnects."""
        self._receive, self._gunzip, self._is_gone = receive, gunzip, is_gone
        self._buffer = bytearray()
        self._changed = asyncio.Condition()
        self._is_complete = False
        self._error: Exception | None = None

    async def read_all(self) -> None:
        """Read the body, then wait until the client disconnects."""
        following = receive_ahead(self._receive, self._is_gone)
        try:
            while True:
                message = await following
                if message["type"] == "http.disconnect":
                    self._is_gone.set()
                    await self._fail(_Disconnected())
                    return
                # A small gzip body can become gigabytes of lines: see meanwhile whether the client is gone.
                following = receive_ahead(self._receive, self._is_gone)
                is_complete = not message.get("more_body", False)
                async for piece in self._decoded(message.get("body", b"")):
                    await self._put(piece)
                if is_complete and self._gunzip:
                    self._gunzip.finish()
                async with self._changed:
                    self._is_complete = is_complete
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 -- raised by `take`, which would wait forever
            await self._fail(error)
        finally:
            following.cancel()

    async def take(
        self, is_stopping: Callable[[], bool], max_bytes: int, *, wait_s: float | None = None
    ) -> tuple[bytes, bool] | None:
        """Wait for bytes and take up to `max_bytes`; also return whether they are the last.

        Returns no bytes if none come for `wait_s`, and None if the server is stopping.

        Raises:
            DomainError: the body is malformed.
            _Disconnected: the client has disconnected.
        """
        deadline = time.monotonic() + (math.inf if wait_s is None else wait_s)
        async with self._changed:
            while not (self._buffer or self._is_complete or self._error or time.monotonic() > deadline):
                try:
                    async with asyncio.timeout(_POLL_S):
                        await self._changed.wait()
                except TimeoutError:
                    if is_stopping():
                        return None
            if self._error:
                raise self._error
            if self._is_gone.is_set():
                raise _Disconnected
            data = bytes(self._buffer[:max_bytes])
            del self._buffer[:max_bytes]
            self._changed.notify_all()
            return data, self._is_complete and not self._buffer

    async def _decoded(self, data: bytes) -> AsyncIterator[bytes]:
        if self._gunzip is None:
            yield data
            return
        pieces = self._gunzip.feed(data)
        while piece := await run_in_thread(next, pieces, b""):
            yield piece

    async def _put(self, data: bytes) -> None:
        async with self._changed:
            while len(self._buffer) > _BUFFER_BYTES:
                await self._changed.wait()
            self._buffer += data
            self._changed.notify_all()

    async def _fail(self, error: Exception) -> None:
        async with self._changed:
            self._error = error
            self._changed.notify_all()


class BodyScorer(StreamScorer):
    """Scores pieces of one streamed body, one after the other, in worker threads.

    Flagged lines are recorded among `earlier` ones if the query asks for that; `count` takes the number of
    lines of each piece. The rest as for StreamScorer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: StoredCalibration | None,
        query: StreamQuery,
        check: Check,
        *,
        earlier: EarlierLines,
        count: Callable[[int], None],
        is_json: bool,
    ) -> None:
        labels = partial(earlier.labels, loaded.saved.card.name)
        super().__init__(loaded, calibration, query, check, labels=labels, is_json=is_json)
        self._earlier, self._count = earlier, count
        self._more = query.more
        self._splitter = LineSplitter()
        self._stream: StreamBody | None = None
        self._started = time.monotonic()

    def start(self) -> bytes:
        """Return the `score.start` record, the first of a response."""
        scorer = self.scorer
        calibration = scorer.calibration
        record = {
            "object": "score.start",
            "model": scorer.loaded.reference,
            "false_alarms": scorer.rate,
            "threshold": scorer.threshold,
            "calibration": calibration_body(calibration).model_dump() if calibration else None,
        }
        return json_line(record)

    def score(self, data: bytes, *, is_last: bool, turn: StreamLock | None = None) -> bytes:
        """Return the records of the lines that end in `data`; `turn` is the lock of a stored stream.

        The last event waits for more, unless there are no data.
        """
        raw = [*self._splitter.feed(data), *(self._splitter.finish() if is_last else ())]
        self._count(len(raw))
        is_over = not self._more if is_last else not data  # or none came for a while
        if turn is None:
            return b"".join(map(_dump, self.records(raw, is_last=is_over)))
        self.state, lines = resume(self.scorer, turn), self.totals["lines"]
        records = b"".join(map(_dump, self.records(raw, is_last=is_over)))
        if lines == self.totals["lines"]:
            return records
        stream = save_stream(self.scorer, turn, self.state, lines=self.totals["lines"] - lines)
        # The last record reports whether the first batch restarted the stream.
        restarted = self._stream.restarted if self._stream else stream.restarted
        self._stream = stream.model_copy(update={"restarted": restarted})
        return records

    def end(self) -> bytes:
        """Return the last record."""
        record = {"object": "score.end", **self.totals, "seconds": round(time.monotonic() - self._started, 3)}
        if self.held:
            record["held"] = len(self.held)
        if self._stream:
            record["stream"] = self._stream.model_dump()
        if change := self.scorer.change:
            record["change"] = change.model_dump()
        return json_line(record)

    def record(self, rare: Sequence[Judged]) -> None:
        """Record flagged lines and repeats in the model's alerts."""
        if self.query.alerts:
            self._earlier.record_rare(self.scorer, rare, source=self.query.source)


def resume(scorer: CalibratedScorer, lock: StreamLock) -> State | None:
    """Give the scorer's rule what a stored stream has of it; return the network's state, None at first."""
    scorer.resume(lock.stream.rule)
    return lock.stream.state


def save_stream(scorer: CalibratedScorer, lock: StreamLock, state: State | None, *, lines: int) -> StreamBody:
    """Store the position of a stream after more lines. Raises Conflict if the lock was lost."""
    scorer.check()  # if the client has disconnected, the stream stays where it was
    rule = scorer.rule.dump() if scorer.rule else b""
    return StreamBody.model_validate(lock.save(state, lines=lines, rule=rule))


def _dump(record: dict[str, Any]) -> bytes:
    expected = record.pop("expected", None)
    if expected is None:
        return json_line(record)
    head = json_line(record).removesuffix(b"}\n")
    return b'%s,"expected":%s}\n' % (head, expected.encode("utf-8", "backslashreplace"))
