"""Lines in, scores out, while the lines still come: one answer to a body of any length, in flat memory.

A task reads the body into a small buffer and stops when that is full; the lines that are there when a batch
is done are the next batch. So a file is read in large batches, each a few large steps of the network, and a
line that comes alone is answered at once. A client that does not read its answer is not read from either.

What is wrong with a line is told in its own record and is the end of nothing: bytes that are not UTF-8, a
line longer than MAX_LINE_CHARACTERS, JSON that is none.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.auth import stream_owner
from app.http.dependencies import Services
from app.http.errors import answer
from app.http.event_streams import UNREAD_S
from app.schemas.scores import LineScore, StreamBody, StreamQuery
from app.services.engines import Loaded
from app.services.scoring import Line, Options, Scorer, Where, calibration_body, is_unusual
from app.services.uploads import Gunzip, UnsupportedMedia
from models.anomaly.drift import drift
from models.errors import DomainError
from models.text.vocabulary import Vocabulary
from store.streams import StreamLock

log = logging.getLogger("nextchar.api")

STREAMED = ("text/plain", "application/x-ndjson")
"""The kinds of body that are streams of lines."""

MAX_LINE_CHARACTERS = 50_000
"""Of a longer line so much is scored, and its record says so."""

_MAX_ID_DEPTH = 100  # lists and objects within one another; json.dumps fails on some thousands
_MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS
_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 256 << 10
_SHORT_BATCH_BYTES = 1_000
_LONGEST_EXPECTED = 5_000  # characters of a line at whose places the likeliest are told
_REMEMBERED_LINES = 4_000  # of which the scores are kept, because logs repeat themselves
_REMEMBERED_CHARACTERS = 500  # a longer line is not remembered
_LOOK_UP_S = 0.5  # how often a waiting stream asks whether the server is stopping


def is_streamed(scope: Scope) -> bool:
    """Return whether a request's body is declared as a stream of lines."""
    for name, value in scope.get("headers", ()):
        if name == b"content-type":
            return value.split(b";")[0].strip().lower().decode("latin-1") in STREAMED
    return False


@dataclass(frozen=True)
class RawLine:
    """A line of the body: where it begins, in bytes, and its first bytes; `is_cut` if there were more."""

    offset: int
    data: bytes
    is_cut: bool = False


class Splitter:
    r"""Cuts a body that comes in pieces into lines, without their newlines.

    >>> splitter = Splitter(longest=4)
    >>> [(l.offset, l.data, l.is_cut) for l in splitter.feed(b"ab\ncdefgh\ni") ], list(splitter.finish())
    ([(0, b'ab', False), (3, b'cdef', True)], [RawLine(offset=10, data=b'i', is_cut=False)])
    """

    def __init__(self, *, longest: int) -> None:
        self._longest = longest
        self._held = bytearray()  # the beginning of the line that has not ended
        self._skipped = 0  # bytes of it beyond the longest
        self.offset = 0  # where it begins

    def feed(self, data: bytes) -> Iterator[RawLine]:
        """Take the next bytes; yield the lines that end in them."""
        first, *rest = data.split(b"\n")
        self._hold(first)
        for part in rest:
            yield self._end()
            self.offset += 1
            self._hold(part)

    def finish(self) -> Iterator[RawLine]:
        """Yield the last line, if it has no newline."""
        if self._held:
            yield self._end()

    def _hold(self, part: bytes) -> None:
        room = self._longest - len(self._held)
        self._held += part[:room]
        self._skipped += max(0, len(part) - room)

    def _end(self) -> RawLine:
        line = RawLine(self.offset, bytes(self._held), self._skipped > 0)
        self.offset += len(self._held) + self._skipped
        self._held.clear()
        self._skipped = 0
        return line


@dataclass
class Given:
    """A line as it was given: its characters, what is to come back with it, and what was wrong with it."""

    number: int
    offset: int
    text: str | None  # None: nothing can be scored
    about: dict[str, Any]


class LineReader:
    """From raw lines to characters, noting what was wrong."""

    def __init__(self, vocabulary: Vocabulary, *, is_json: bool) -> None:
        self._vocabulary = vocabulary
        self._is_json = is_json
        self._keeps_cr = "\r" in vocabulary.characters  # the model has learned them
        self._number = 0

    def read(self, raw: RawLine) -> Given:
        """Return the line as characters after NFC, or as bytes for a model of bytes."""
        self._number += 1
        about: dict[str, Any] = {}
        data = raw.data
        if raw.offset == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        if data.endswith(b"\r") and not self._keeps_cr and not raw.is_cut:
            data = data[:-1]
        if self._is_json:
            text = self._from_json(data, raw, about)
        elif self._vocabulary.alphabet == "bytes":
            text = data.decode("latin-1")
        else:
            text = self._vocabulary.to_characters(_decoded(data, raw, about))
        if text is not None and (raw.is_cut or len(text) > MAX_LINE_CHARACTERS):
            text = text[:MAX_LINE_CHARACTERS]
            about["truncated"] = True
        return Given(self._number, raw.offset, text, about)

    def _from_json(self, data: bytes, raw: RawLine, about: dict[str, Any]) -> str | None:
        try:
            value = json.loads(data) if not raw.is_cut else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and _can_be_returned(value.get("id")):
            about |= {"id": value["id"]} if "id" in value else {}
            value = value.get("line")
        if not isinstance(value, str):
            about["error"] = {
                "code": "line_too_long" if raw.is_cut else "malformed_line",
                "message": f"longer than {_MAX_LINE_BYTES:,} bytes, too long to be read as JSON"
                if raw.is_cut
                else "neither a JSON string nor an object with a string `line` and, perhaps, an `id`",
            }
            return None
        if not value.isascii():  # JSON can spell half a character, which is no text: it becomes U+FFFD
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._vocabulary.to_characters(value)


def _can_be_returned(value: Any) -> bool:
    """Whether an id can be written as JSON: it may be nested too deeply, or a number too large for any."""
    if _is_nested_deeper(value, _MAX_ID_DEPTH):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_nested_deeper(value: Any, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _decoded(data: bytes, raw: RawLine, about: dict[str, Any]) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not (raw.is_cut and error.end == len(data) and error.reason == "unexpected end of data"):
            about["not_utf8"] = {"offset": raw.offset + error.start, "byte": f"{data[error.start]:#04x}"}
        return data.decode("utf-8", "replace")  # U+FFFD: a character the model does not know


class ScoreStream(Response):
    """The answer to a stream of lines. `open` it before it is sent: that raises the request's errors."""

    media_type = "application/x-ndjson"

    def __init__(self, services: Services, model: str, query: StreamQuery, request: Request) -> None:
        self._services, self._model, self._query = services, model, query
        self._kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        self._encoding = request.headers.get("content-encoding", "identity").strip().lower()
        self._loaded: Loaded | None = None
        self._owner = stream_owner(request)
        self._is_gone = threading.Event()
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def open(self) -> None:
        """Load the model and its calibration. Raises DomainError."""
        if self._encoding not in ("identity", "gzip", "x-gzip"):
            raise UnsupportedMedia(
                f"Content-Encoding {self._encoding!r} is not understood; send lines as they are or with gzip",
                code="unsupported_encoding",
                param="body",
            )
        loaded = await self._services.engines.take_async(self._model)
        try:
            await anyio.to_thread.run_sync(self._open, loaded, limiter=self._services.score_threads)
        except BaseException:
            self._services.engines.give_back(loaded)
            raise
        self._loaded = loaded

    def _open(self, loaded: Loaded) -> None:
        query = self._query
        found = self._services.calibrations.find(loaded.saved, query.calibration)
        options = Options(
            query.detail,
            query.expected,
            query.false_alarms,
            fast=query.precision == "auto",
            adapt=query.adapt,
            explain=query.explain,
        )
        if query.adapt:
            loaded.engine.check_adapting()
        self._scorer = Scorer(loaded, found, options, self._check)
        self._batches = _Batches(self._scorer, query, is_json=self._kind != "text/plain")

    def _check(self) -> None:
        if self._is_gone.is_set():
            raise _Gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the answer."""
        assert self._loaded is not None, "not opened"
        body = _Body(receive, Gunzip() if self._encoding != "identity" else None, self._is_gone)
        reading = asyncio.ensure_future(body.read_all())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send, _json_line(self._batches.start()))
            try:
                await self._score_all(body, send)
            except (_Gone, OSError, TimeoutError):
                raise
            except Exception as error:  # whatever it is, the answer ends as promised
                if not isinstance(error, DomainError | RedisError):
                    log.exception("scoring lines by %s", self._model)
                await self._send(send, _json_line({"object": "error"} | answer(error)[1].model_dump()))
            await self._send(send, _json_line(self._batches.end()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (_Gone, OSError, TimeoutError):
            pass  # nobody reads it any more
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._services.engines.give_back(self._loaded)

    async def _score_all(self, body: "_Body", send: Send) -> None:
        while True:
            # The likeliest characters are a hundred times as long as the lines, so they are told in pieces.
            most = _BATCH_BYTES // 64 if self._query.expected else _BATCH_BYTES
            data, is_last = await body.take(self._services.stopping.is_set, most)
            scored = await self._score(data, is_last=is_last)
            if scored:
                await self._send(send, scored)
            if is_last:
                return

    async def _score(self, data: bytes, *, is_last: bool) -> bytes:
        services, loaded, stream_id = self._services, self._loaded, self._query.stream_id
        assert loaded is not None, "not opened"
        work = partial(self._batches.score, data, is_last=is_last)
        # A few lines that have just come do not wait for the large batches of other streams.
        threads = services.score_threads if len(data) <= _SHORT_BATCH_BYTES else services.line_threads
        if stream_id is None:
            return await anyio.to_thread.run_sync(work, limiter=threads)
        size = loaded.engine.state_size
        async with services.stream_turns.turn(
            loaded.reference, stream_id, size=size, owner=self._owner
        ) as turn:
            return await anyio.to_thread.run_sync(partial(work, turn=turn), limiter=threads)

    async def _send(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(UNREAD_S):
            await send({"type": "http.response.body", "body": data, "more_body": True})


class _Gone(Exception):
    """The client has gone away."""


class _Body:
    """The request's body, read ahead as far as the buffer goes."""

    def __init__(self, receive: Receive, gunzip: Gunzip | None, is_gone: threading.Event) -> None:
        """Read with `receive`, and set `is_gone` once the client has gone."""
        self._receive, self._gunzip, self._is_gone = receive, gunzip, is_gone
        self._buffer = bytearray()
        self._changed = asyncio.Condition()
        self._is_whole = False
        self._error: Exception | None = None

    async def read_all(self) -> None:
        """Read the body, and wait until the client goes."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._is_gone.set()
                    await self._fail(_Gone())
                    return
                is_whole = not message.get("more_body", False)
                data = message.get("body", b"")
                async for piece in self._text_in(data):
                    await self._put(piece)
                if is_whole and self._gunzip:
                    self._gunzip.finish()
                async with self._changed:
                    self._is_whole = is_whole
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  raised by `take`, which would wait for ever
            await self._fail(error)

    async def _text_in(self, data: bytes) -> AsyncIterator[bytes]:
        if self._gunzip is None:
            yield data
            return
        pieces = self._gunzip.feed(data)
        while piece := await anyio.to_thread.run_sync(next, pieces, b""):
            yield piece

    async def _fail(self, error: Exception) -> None:
        async with self._changed:
            self._error = error
            self._changed.notify_all()

    async def take(self, is_stopping: Callable[[], bool], most: int) -> tuple[bytes, bool]:
        """Wait for some bytes and take them, `most` at most; also return whether they are the last.

        Raises:
            DomainError: the body is broken; _Gone: the client is.
        """
        async with self._changed:
            while not (self._buffer or self._is_whole or self._error):
                try:
                    async with asyncio.timeout(_LOOK_UP_S):
                        await self._changed.wait()
                except TimeoutError:
                    if is_stopping():
                        return b"", True
            if self._error:
                raise self._error
            data = bytes(self._buffer[:most])
            del self._buffer[:most]
            self._changed.notify_all()
            return data, self._is_whole and not self._buffer

    async def _put(self, data: bytes) -> None:
        async with self._changed:
            while len(self._buffer) > _BUFFER_BYTES:
                await self._changed.wait()
            self._buffer += data
            self._changed.notify_all()


class _Batches:
    """Scores pieces of the body, one after the other, in worker threads."""

    def __init__(self, scorer: Scorer, query: StreamQuery, *, is_json: bool) -> None:
        self._scorer, self._query = scorer, query
        self._splitter = Splitter(longest=_MAX_LINE_BYTES)
        self._reader = LineReader(scorer.loaded.vocabulary, is_json=is_json)
        self._known: dict[str, LineScore] = {}
        self._expected: dict[str, str] = {}  # of this batch's lines, as JSON
        self._where = Where()
        self._stream: StreamBody | None = None
        self._began = time.monotonic()
        self._totals = {
            "lines": 0,
            "characters": 0,
            "anomalous": 0,
            "unusual": 0,  # as the most unusual tenth of the calibration's; far more of them is a drift
            "not_utf8": 0,
            "truncated": 0,
            "errors": 0,
        }

    def start(self) -> dict[str, Any]:
        """Return the first record."""
        scorer = self._scorer
        return {
            "object": "score.start",
            "model": scorer.loaded.reference,
            "false_alarms": scorer.rate,
            "threshold": scorer.threshold,
            "calibration": calibration_body(scorer.calibration).model_dump() if scorer.calibration else None,
        }

    def score(self, data: bytes, *, is_last: bool, turn: StreamLock | None = None) -> bytes:
        """Return the records of the lines that end in `data`; `turn` is that on the stream, if it is kept."""
        raw = [*self._splitter.feed(data), *(self._splitter.finish() if is_last else ())]
        given = [self._reader.read(line) for line in raw]
        texts = [line.text for line in given if line.text is not None]
        scores = iter(self._score_lines(texts, turn) if texts else [])
        records = (self._record(line, next(scores) if line.text is not None else None) for line in given)
        return b"".join(record for record in records if record)

    def end(self) -> dict[str, Any]:
        """Return the last record."""
        seconds = round(time.monotonic() - self._began, 3)
        stream = {"stream": self._stream.model_dump()} if self._stream else {}
        advice = drift(self._totals["lines"], self._totals["unusual"])
        told = {"drift": advice} if advice else {}
        return {"object": "score.end", **self._totals, "seconds": seconds, **stream, **told}

    def _score_lines(self, texts: list[str], turn: StreamLock | None) -> list[LineScore]:
        if self._query.context == "stream":
            return self._scorer.describe(self._read_on(texts, turn))
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        lines = self._scorer.read(new) if new else []
        told = dict(zip(new, self._scorer.describe(lines), strict=True))
        self._expected = {
            text: self._scorer.expected_json(line)
            for text, line in zip(new, lines, strict=True)
            if self._query.expected and len(text) <= _LONGEST_EXPECTED
        }
        found = [told.get(text) or known[text] for text in texts]
        if self._query.detail != "character":
            if len(known) > _REMEMBERED_LINES:
                known.clear()
            known.update((t, one) for t, one in told.items() if len(t) <= _REMEMBERED_CHARACTERS)
        return found

    def _read_on(self, texts: list[str], turn: StreamLock | None) -> list[Line]:
        if turn is None:
            lines, self._where = self._scorer.read_on(texts, self._where)
            return lines
        lines, now = self._scorer.read_in_turn(turn, texts)
        # What is told at the end is why the first of these batches began anew, if it did.
        restarted = self._stream.restarted if self._stream else now.restarted
        self._stream = now.model_copy(update={"restarted": restarted})
        return lines

    def _record(self, line: Given, score: LineScore | None) -> bytes | None:
        totals = self._totals
        totals["lines"] += 1
        totals["not_utf8"] += "not_utf8" in line.about
        totals["truncated"] += "truncated" in line.about
        totals["errors"] += "error" in line.about
        if score:
            totals["characters"] += score.characters
            totals["anomalous"] += bool(score.anomalous)
            totals["unusual"] += is_unusual(score)
        if self._query.only == "anomalous" and not (
            line.about.keys() - {"id"} or (score and score.anomalous)
        ):
            return None
        record = {"object": "score.line", "line": line.number, "offset": line.offset, **line.about}
        if score:
            record |= score.model_dump(exclude_none=True)
        if self._query.echo and line.text is not None:
            record["text"] = self._scorer.loaded.vocabulary.to_text(line.text)
        expected = self._expected.get(line.text or "")
        if expected is None or score is None:
            return _json_line(record)
        head = _json_line(record).removesuffix(b"}\n")
        return b'%s,"expected":%s}\n' % (head, expected.encode("utf-8", "backslashreplace"))


def _json_line(record: dict[str, Any]) -> bytes:
    return (
        json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        + b"\n"
    )
