"""Limits on incoming bodies: how slowly one may arrive, and the memory of all together.

    memory = BodyMemory(limit_bytes=256 << 20)
    body = IncomingBody(receive, memory=memory, timeout_s=30, max_bytes=32 << 20)
    await app(scope, body.receive, send)
    body.release()  # earlier, if the application no longer holds it

A client has `timeout_s` for each MIN_BYTES of a body; only the time that the application waits for the client
counts. A body that is held in memory until it is complete (`max_bytes` is given) must be complete after four
times as long. While all such bodies together exceed the limit, the one that began first is refused, so that
slow clients cannot keep fast ones out. Small bodies, such as those sent at every keystroke, are not counted.
"""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from nextchar.app.http.limits import BODIES

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
            raise HTTPException(413)
        if self._received_bytes > SMALL_BYTES:
            self._memory.add(self, self._received_bytes - SMALL_BYTES - counted_before)
            if self._is_refused:
                raise _no_memory()


def _no_memory() -> Exception:
    return BODIES.refusal(
        "the bodies of all requests exceed NEXTCHAR_BODY_MEMORY_BYTES; try again in a moment"
    )
