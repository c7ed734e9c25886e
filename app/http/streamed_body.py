"""A request's body that is read in pieces, such as an upload, and the file in one of multipart/form-data."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import DomainError, InvalidInput

_PIECE_BYTES = 256 << 10
_MAX_DRAIN_BYTES = 64 << 20
_DRAIN_S = 5

_MAX_VALUE_BYTES = 1000


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
            self._following = asyncio.ensure_future(self._request.receive())
            self._following.add_done_callback(self._note_disconnect)
        await run_in_thread(work)

    def check(self) -> None:
        """Raise ClientDisconnect if the client has disconnected."""
        if self._is_gone.is_set():
            raise ClientDisconnect

    def close(self) -> None:
        """Stop waiting for the client."""
        if self._following is not None:
            self._following.cancel()

    def _note_disconnect(self, received: asyncio.Future[Message]) -> None:
        is_message = not received.cancelled() and received.exception() is None
        if is_message and received.result()["type"] == "http.disconnect":
            self._is_gone.set()

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
