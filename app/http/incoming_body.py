"""Bodies as they arrive: how slowly one may, the memory of all together, and those that are read in pieces.

    memory = BodyMemory(limit_bytes=256 << 20)
    body = IncomingBody(receive, memory=memory, timeout_s=30, max_bytes=32 << 20)
    await app(scope, body.receive, send)
    body.release()  # earlier, if the application no longer holds it

A client has `timeout_s` for each MIN_BYTES of a body; only the time that the application waits for the client
counts. A body that is held in memory until it is complete (`max_bytes` is given) must be complete after four
times as long. While all such bodies together exceed the limit, the one that began first is refused, so that
slow clients cannot keep fast ones out. Small bodies, such as those sent at every keystroke, are not counted.

`StreamedBody` is a body that is read in pieces, such as an upload; `FormText` is the file in one of
multipart/form-data.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from nextchar.app.http.limits import BODIES
from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import DomainError, InvalidInput

MIN_BYTES = 16 << 10
"""This much of a body must arrive within each timeout."""

SMALL_BYTES = 64 << 10
"""This much of each body is not counted; the server has a buffer of this size per connection anyway."""

_MAX_TIMEOUTS_PER_BODY = 4


class BodyMemory:
    """Counts the bytes of all bodies held in memory."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._incomplete: dict[IncomingBody, None] = {}  # oldest first

    @property
    def held_bytes(self) -> int:
        """The bytes held now."""
        return self._held_bytes

    def add(self, body: "IncomingBody", count: int) -> None:
        """Count more bytes of an incomplete body; refuse the oldest bodies while the limit is exceeded."""
        self._incomplete.setdefault(body)
        self._hold(body, count)

    def expand(self, body: "IncomingBody", count: int) -> None:
        """Count what a complete body takes when it is parsed.

        Raises:
            HTTPException: 503 if the limit is exceeded although all incomplete bodies are refused.
        """
        self._hold(body, count)
        if self._held_bytes > self._limit_bytes:
            raise _no_memory()

    def _hold(self, body: "IncomingBody", count: int) -> None:
        self._held_bytes += count
        body.held_bytes += count
        while self._held_bytes > self._limit_bytes:
            oldest = next(iter(self._incomplete), None)
            if oldest is None:
                return
            self.remove(oldest)
            oldest.refuse()

    def complete(self, body: "IncomingBody") -> None:
        """Mark a body as complete: it still counts, but is no longer refused."""
        self._incomplete.pop(body, None)

    def remove(self, body: "IncomingBody") -> None:
        """Stop counting a body."""
        self._incomplete.pop(body, None)
        self._held_bytes -= body.held_bytes
        body.held_bytes = 0


class IncomingBody:
    """The body of one request. `max_bytes` is its limit if it is held in memory, None if it is streamed."""

    def __init__(
        self, receive: Receive, *, memory: BodyMemory, timeout_s: float, max_bytes: int | None
    ) -> None:
        self._receive, self._memory = receive, memory
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._waited_s = 0.0  # for the current MIN_BYTES
        self._total_waited_s = 0.0
        self._part_bytes = 0
        self._received_bytes = 0
        self.is_complete = False
        self._is_refused = False
        self._waiting: asyncio.Timeout | None = None
        self.held_bytes = 0  # as counted by `memory`

    async def receive(self) -> Message:
        """Return the next ASGI message.

        Raises:
            HTTPException: 413 for too many bytes, 408 for a client that is too slow, 503 if all bodies
                together take too much memory. FastAPI passes on only this exception while it reads a body.
        """
        if self.is_complete:
            return await self._receive()  # the disconnect
        message = await self._next()
        data = message.get("body", b"")
        if self._max_bytes is not None:
            self._count(len(data))
        if not message.get("more_body", False):
            self.is_complete = True
            self._memory.complete(self)
        return message

    def refuse(self) -> None:
        """Respond with 503 as soon as the application waits for more bytes."""
        self._is_refused = True
        if self._waiting is not None:
            with contextlib.suppress(RuntimeError):  # it has timed out already
                self._waiting.reschedule(asyncio.get_running_loop().time())

    def expand(self, count: int) -> None:
        """Count what the complete body takes when it is parsed; see `BodyMemory.expand`."""
        self._memory.expand(self, count)

    def release(self) -> None:
        """Stop counting the body, which is no longer held. A second call does nothing."""
        self._memory.remove(self)

    async def _next(self) -> Message:
        time: Callable[[], float] = asyncio.get_running_loop().time
        began_at = time()
        try:
            async with asyncio.timeout(0 if self._is_refused else self._left_s()) as self._waiting:
                message = await self._receive()
        except TimeoutError:
            too_slow = HTTPException(408, headers={"Connection": "close"})  # the rest is not read
            raise (_no_memory() if self._is_refused else too_slow) from None
        finally:
            self._waiting = None
        waited_s = time() - began_at
        self._waited_s += waited_s
        self._total_waited_s += waited_s
        self._part_bytes += len(message.get("body", b""))
        if self._part_bytes >= MIN_BYTES:
            self._part_bytes, self._waited_s = 0, 0.0
        return message

    def _left_s(self) -> float:
        left_s = self._timeout_s - self._waited_s
        if self._max_bytes is not None:
            left_s = min(left_s, _MAX_TIMEOUTS_PER_BODY * self._timeout_s - self._total_waited_s)
        return left_s

    def _count(self, count: int) -> None:
        assert self._max_bytes is not None
        counted_before = max(0, self._received_bytes - SMALL_BYTES)
        self._received_bytes += count
        if self._received_bytes > self._max_bytes:
            raise body_too_large(self._max_bytes)
        if self._received_bytes > SMALL_BYTES:
            self._memory.add(self, self._received_bytes - SMALL_BYTES - counted_before)
            if self._is_refused:
                raise _no_memory()


def body_too_large(max_bytes: int) -> HTTPException:
    """Return the error for a body with more bytes than a call accepts."""
    return HTTPException(413, f"the body is larger than the {max_bytes:,} bytes that this call accepts")


def _no_memory() -> Exception:
    return BODIES.refusal(
        "the bodies of all requests exceed NEXTCHAR_BODY_MEMORY_BYTES; try again in a moment"
    )


_PIECE_BYTES = 256 << 10
_MAX_DRAIN_BYTES = 64 << 20
_DRAIN_S = 5

_MAX_VALUE_BYTES = 1000


def receive_ahead(receive: Receive, is_gone: threading.Event) -> asyncio.Future[Message]:
    """Begin to receive the next message; set `is_gone` if it is that the client has disconnected."""

    def note(received: asyncio.Future[Message]) -> None:
        is_message = not received.cancelled() and received.exception() is None
        if is_message and received.result()["type"] == "http.disconnect":
            is_gone.set()

    following = asyncio.ensure_future(receive())
    following.add_done_callback(note)
    return following


class StreamedBody:
    """A request's body in pieces; it need not be read to its end."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_complete = False
        self._following: asyncio.Future[Message] | None = None  # what is received while `run` works
        self._is_gone = threading.Event()

    @property
    def declared_bytes(self) -> int:
        """The length that the request declares; 0 if it declares none."""
        declared = self._request.headers.get("content-length", "")
        return int(declared) if declared.isdecimal() else 0

    async def pieces(self, max_bytes: int, too_large: DomainError) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about 256 KiB, because each costs a switch to another thread.

        Raises `too_large` if its declared or its actual length exceeds `max_bytes`.
        """
        if self.declared_bytes > max_bytes:
            raise too_large
        received = bytearray()
        left_bytes = max_bytes
        while not self._is_complete:
            data = await self._receive()
            left_bytes -= len(data)
            if left_bytes < 0:
                raise too_large
            received += data
            if len(received) >= _PIECE_BYTES:
                yield bytes(received)
                received.clear()
        if received:
            yield bytes(received)

    async def run(self, work: Callable[[], None]) -> None:
        """Call `work` in a worker thread; meanwhile note whether the client disconnects, for `check`."""
        if self._following is None:
            self._following = receive_ahead(self._request.receive, self._is_gone)
        await run_in_thread(work)

    def check(self) -> None:
        """Raise ClientDisconnect if the client has disconnected."""
        if self._is_gone.is_set():
            raise ClientDisconnect

    def close(self) -> None:
        """Stop waiting for the client."""
        if self._following is not None:
            self._following.cancel()

    async def drain(self) -> None:
        """Read and discard the rest of a refused body, up to a limit.

        If a connection is closed while the client still writes, its system discards the response.
        """
        if "100-continue" in self._request.headers.get("expect", "").lower():
            return  # this client has not sent its body yet
        left_bytes = _MAX_DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left_bytes > 0 and not self._is_complete:
                    left_bytes -= len(await self._receive())

    async def _receive(self) -> bytes:
        following, self._following = self._following, None
        message = await (following or self._request.receive())
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._is_complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))


class FormText:
    """Extracts the field `file` from multipart/form-data, piece by piece.

    Only the short fields named in `others` may accompany it; their values and the file's name are kept.
    """

    def __init__(self, boundary: bytes, *, others: Sequence[str] = ()) -> None:
        if not boundary:
            raise _invalid_form("its Content-Type names no boundary")
        self._text: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._has_file = False
        self.has_ended = False
        self._others = others
        self._current_field = "file"
        self.values: dict[str, bytes] = {}
        self.filename = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": partial(self._collect, "_field"),
                    "on_header_value": partial(self._collect, "_value"),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:  # the boundary is too long
            raise _invalid_form(str(error)) from None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the file's bytes in the next bytes of the form. Raises InvalidInput for an invalid form."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise _invalid_form(str(error)) from None
        text = self._text[:]
        self._text.clear()
        return text

    def finish(self) -> None:
        """Check that the form is complete and has the field. Raises InvalidInput."""
        if not self.has_ended:
            raise _invalid_form("it ends too early")
        if not self._has_file:
            raise InvalidInput(
                "the form has no field named file; send the text in it", code="form_broken", param="file"
            )

    def _collect(self, attribute: str, data: bytes, start: int, end: int) -> None:
        setattr(self, attribute, getattr(self, attribute) + data[start:end])

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("latin-1")
        is_other = name in self._others and name not in self.values
        if not is_other and (name != "file" or self._has_file):
            also = "; options go into the query, as ?name=NAME"
            if self._others:
                also = f", and each of {', '.join(self._others)} once"
            raise InvalidInput(
                f"the form has a field {name!r}; it must have one field named file, with the text{also}",
                code="form_broken",
                param=name or "body",
            )
        self._current_field = name
        if is_other:
            self.values[name] = b""
        else:
            self._has_file = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_field == "file":
            self._text.append(bytes(data[start:end]))
            return
        self.values[self._current_field] += data[start:end]
        if len(self.values[self._current_field]) > _MAX_VALUE_BYTES:
            raise InvalidInput(
                f"the form's field {self._current_field} is longer than {_MAX_VALUE_BYTES} bytes",
                code="form_broken",
                param=self._current_field,
            )

    def _end(self) -> None:
        self.has_ended = True


def _invalid_form(why: str) -> InvalidInput:
    return InvalidInput(f"the body is not valid multipart/form-data: {why}", code="form_broken", param="body")
