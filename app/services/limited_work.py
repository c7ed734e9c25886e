"""Long blocking work, in threads of its own and in bounded number, so that nothing short waits behind it.

A request waits for its work on the event loop. When its task is cancelled, because the client has gone or the
server is stopping, work that has not begun is dropped, and work under way ends at its next `check`.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from models.errors import Busy

T = TypeVar("T")

Check = Callable[[], None]
"""Called between pieces of work; raises Cancelled once the client no longer waits for the result."""


class Cancelled(Exception):
    """The client no longer waits for this work."""


class LimitedWork:
    """Runs work of one kind, `running` at a time while `waiting` more wait their turn.

    Args:
        name: of the work, in plural, for threads and messages.
        running: how many run at once.
        waiting: how many may wait; above it the answer is Busy.
        retry_after_s: when a refused client may ask again.
        code: of the refusal.
    """

    def __init__(
        self, name: str, *, running: int, waiting: int, retry_after_s: float, code: str = "busy"
    ) -> None:
        self._name, self._code = name, code
        self._max_under_way = running + waiting
        self._retry_after_s = retry_after_s
        self._threads = ThreadPoolExecutor(running, thread_name_prefix=name)
        self._under_way: set[Future[Any]] = set()

    async def run(self, work: Callable[[Check], T]) -> T:
        """Return what `work` returns, which is called in a thread with its check.

        Raises:
            Busy: too many wait already.
        """
        if len(self._under_way) >= self._max_under_way:
            raise Busy(
                f"{len(self._under_way)} {self._name} are under way or wait; ask again later",
                retry_after_s=self._retry_after_s,
                code=self._code,
            )
        is_cancelled = threading.Event()

        def check() -> None:
            if is_cancelled.is_set():
                raise Cancelled

        future = self._threads.submit(work, check)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.wrap_future(future)
        finally:
            is_cancelled.set()

    def close(self) -> None:
        """Drop what has not begun; work under way ends by its check."""
        self._threads.shutdown(wait=False, cancel_futures=True)
