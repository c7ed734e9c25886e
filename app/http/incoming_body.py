"""A request's body on its way in: how slowly it may come, and how much of all bodies is held at once.

    memory = BodyMemory(limit_bytes=256 << 20)
    body = IncomingBody(receive, memory=memory, timeout_s=30, max_bytes=32 << 20)
    await app(scope, body.receive, send)
    body.release()

A client has `timeout_s` for each MIN_BYTES of a body; only the time in which the application waits for the
client counts. A body that is held in memory until it is complete (`max_bytes` is given) must be complete
after four times as long. When all such bodies together are larger than the limit, the one that began first
is refused: a client that sends slowly cannot keep out one that does not. Small bodies, as those of
keystrokes, are not counted.
"""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

MIN_BYTES = 16 << 10
"""Of a body so much must come within each timeout."""

SMALL_BYTES = 64 << 10
"""So much of each body is not counted: the server has a buffer of this size for each connection anyway."""

_TIMEOUTS_IN_ALL = 4


class BodyMemory:
    """The bytes of the bodies that all requests hold."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._incomplete: dict[IncomingBody, None] = {}  # the one that began first is first

    @property
    def held_bytes(self) -> int:
        """The bytes held now."""
        return self._held_bytes

    def add(self, body: "IncomingBody", count: int) -> None:
        """Count more bytes of a body that is not complete; refuse bodies while there are too many."""
        self._incomplete.setdefault(body)
        self._held_bytes += count
        body.held_bytes += count
        while self._held_bytes > self._limit_bytes:
            oldest = next(iter(self._incomplete), None)
            if oldest is None:
                return
            self.remove(oldest)
            oldest.refuse()

    def complete(self, body: "IncomingBody") -> None:
        """Note that a body is complete: it is held until it is removed, and no longer refused."""
        self._incomplete.pop(body, None)

    def remove(self, body: "IncomingBody") -> None:
        """Count a body no longer."""
        self._incomplete.pop(body, None)
        self._held_bytes -= body.held_bytes
        body.held_bytes = 0


class IncomingBody:
    """The body of one request. `max_bytes` is its limit if it is held in memory, None if it is not."""

    def __init__(
        self, receive: Receive, *, memory: BodyMemory, timeout_s: float, max_bytes: int | None
    ) -> None:
        self._receive, self._memory = receive, memory
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._waited_s = 0.0  # for this part of MIN_BYTES, and for all
        self._waited_in_all_s = 0.0
        self._part_bytes = 0
        self._taken_bytes = 0
        self._is_complete = False
        self._is_refused = False
        self._waiting: asyncio.Timeout | None = None
        self.held_bytes = 0  # of it, as counted by `memory`

    async def receive(self) -> Message:
        """Return the next ASGI message.

        Raises:
            HTTPException: 413 for too many bytes, 408 for a client that is too slow, 503 when all bodies
                together take too much memory. It is the one exception that FastAPI lets through while it
                reads a body.
        """
        if self._is_complete:
            return await self._receive()  # when the client goes away
        message = await self._next()
        data = message.get("body", b"")
        if self._max_bytes is not None:
            self._count(len(data))
        if not message.get("more_body", False):
            self._is_complete = True
            self._memory.complete(self)
        return message

    def refuse(self) -> None:
        """Answer 503 as soon as the application waits for more."""
        self._is_refused = True
        if self._waiting is not None:
            with contextlib.suppress(RuntimeError):  # its time was over already
                self._waiting.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """Forget the body, which is held no longer."""
        self._memory.remove(self)

    async def _next(self) -> Message:
        time: Callable[[], float] = asyncio.get_running_loop().time
        began_at = time()
        try:
            async with asyncio.timeout(0 if self._is_refused else self._left_s()) as self._waiting:
                message = await self._receive()
        except TimeoutError:
            raise (_no_memory() if self._is_refused else _too_slow()) from None
        finally:
            self._waiting = None
        waited_s = time() - began_at
        self._waited_s += waited_s
        self._waited_in_all_s += waited_s
        self._part_bytes += len(message.get("body", b""))
        if self._part_bytes >= MIN_BYTES:
            self._part_bytes, self._waited_s = 0, 0.0
        return message

    def _left_s(self) -> float:
        left_s = self._timeout_s - self._waited_s
        if self._max_bytes is not None:
            left_s = min(left_s, _TIMEOUTS_IN_ALL * self._timeout_s - self._waited_in_all_s)
        return left_s

    def _count(self, count: int) -> None:
        assert self._max_bytes is not None
        counted_before = max(0, self._taken_bytes - SMALL_BYTES)
        self._taken_bytes += count
        if self._taken_bytes > self._max_bytes:
            raise HTTPException(413)
        if self._taken_bytes > SMALL_BYTES:
            self._memory.add(self, self._taken_bytes - SMALL_BYTES - counted_before)
            if self._is_refused:
                raise _no_memory()


def _too_slow() -> HTTPException:
    return HTTPException(408, headers={"Connection": "close"})  # what is left of the body is not waited for


def _no_memory() -> HTTPException:
    return HTTPException(
        503,
        "the bodies of all requests together take too much memory now (NEXTCHAR_BODY_MEMORY_BYTES); try again"
        " in a moment",
        headers={"Retry-After": "1"},
    )
