"""The threads of calls that read and write records. Clients take turns, so none waits for a flood of another.

Functions that FastAPI or `anyio.to_thread.run_sync` runs without a limiter of their own run in these threads.
"""

import asyncio
from collections import Counter, deque
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import anyio
from anyio._backends._asyncio import _default_thread_limiter  # there is no public way to replace it

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the request that is served in this context: its key or its address."""


def current_key() -> str:
    """Return the name of the API key of the request that is served in this context, "" without one."""
    kind, _, name = CLIENT.get().partition(" ")
    return name if kind == "key" else ""


class FairThreads(anyio.CapacityLimiter):
    """A limit on threads that serves the waiting clients in turns. For one event loop.

    Args:
        threads: how many may run.
        per_client: how many of these may be those of one client, so that others are served at once.
    """

    def __new__(cls, threads: int, *, per_client: int) -> Self:  # noqa: ARG004
        """Make one, where anyio's would return another class."""
        return object.__new__(cls)

    def __init__(self, threads: int, *, per_client: int) -> None:
        self.threads, self.per_client = threads, per_client
        self._free = threads
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client, the next one first

    def set_as_default(self) -> None:
        """Limit all functions that this event loop runs in threads without their own limiter."""
        _default_thread_limiter.set(self)  # type: ignore[arg-type]  # the type is that of anyio's own

    async def __aenter__(self) -> None:
        """Wait for a thread."""
        client = CLIENT.get()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(client, turn)
            else:  # cancelled after it had got a thread
                self._release(client)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Give the thread back."""
        self._release(CLIENT.get())

    @property
    def borrowed_tokens(self) -> int:
        """How many threads run."""
        return self.threads - self._free

    def _release(self, client: str) -> None:
        self._free += 1
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._serve()

    def _serve(self) -> None:
        """Give free threads to the clients that wait, one after the other."""
        while self._free:
            waiting = (client for client in self._waiting if self._running[client] < self.per_client)
            if (client := next(waiting, None)) is None:
                return
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # after all others
            if not turn.cancelled():
                self._free -= 1
                self._running[client] += 1
                turn.set_result(None)

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[client]
