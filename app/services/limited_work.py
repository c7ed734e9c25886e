"""Long blocking work in its own threads, a limited number at a time, so that short work never waits for it.

A request waits for its work on the event loop. If its task is cancelled, because the client has disconnected
or the server shuts down, queued work is dropped and running work ends at its next `check`. Work that has made
its last check completes: its result is returned, so that what it has changed is not lost from sight.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from models.errors import Busy

T = TypeVar("T")

Check = Callable[[], None]
"""Called between steps of the work; raises Cancelled once the client no longer waits for the result."""


class Cancelled(Exception):
    """The client no longer waits for this work."""


class LimitedWork:
    """Runs work of one kind, `running` at a time, with a queue of at most `waiting`.

    Args:
        name: plural name of the work, for threads and messages.
        running: how many run at a time.
        waiting: how many may wait; further ones are refused.
        retry_after_s: when a refused client may retry.
        code: the error code of a refusal.
    """

    def __init__(
        self, name: str, *, running: int, waiting: int, retry_after_s: float, code: str = "busy"
    ) -> None:
        self._name, self._code = name, code
        self.running, self.waiting = running, waiting
        self._max_pending = running + waiting
        self._retry_after_s = retry_after_s
        self._threads = ThreadPoolExecutor(running, thread_name_prefix=name)
        self._pending: set[Future[Any]] = set()

    async def run(self, work: Callable[[Check], T]) -> T:
        """Return the result of `work`, which is called in a thread with its check.

        Raises:
            Busy: the queue is full.
        """
        if len(self._pending) >= self._max_pending:
            raise Busy(
                f"{len(self._pending)} {self._name} are running or waiting; try again later",
                retry_after_s=self._retry_after_s,
                code=self._code,
            )
        is_cancelled = threading.Event()

        def check() -> None:
            if is_cancelled.is_set():
                raise Cancelled

        # The pool keeps a cancelled call until a thread is free; it must not keep what the work holds.
        held = [work]
        future = self._threads.submit(lambda: held.pop()(check))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            is_cancelled.set()
            if not future.cancel():  # it has begun
                with contextlib.suppress(Cancelled):
                    return await asyncio.wrap_future(future)
            raise
        finally:
            is_cancelled.set()
            held.clear()

    def close(self) -> None:
        """Drop queued work; running work ends at its next check."""
        self._threads.shutdown(wait=False, cancel_futures=True)
