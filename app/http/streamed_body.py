"""A request's body that is read in pieces, such as an upload."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from nextchar.app.http.fair_threads import run_in_thread
from nextchar.models.errors import DomainError

_PIECE_BYTES = 256 << 10
_MAX_DRAIN_BYTES = 64 << 20
_DRAIN_S = 5


def content_type(headers: Headers) -> str:
    """Return the media type of a body, in lower case and without parameters; empty if it is unknown."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


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
