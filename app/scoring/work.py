"""Threads of the calls that score, and locks on their streams.

Each kind of call has its own threads, so that none waits for a longer kind. Locks are acquired on the event
loop, so that a waiting call occupies no thread.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
from redis.exceptions import RedisError

from nextchar.app.http.threads import LimitedWork
from nextchar.app.scoring.streams import RETRY_S, WAIT_S, Owner, StreamLock, Streams, stream_busy
from nextchar.models.errors import Busy

_SCORE_THREADS = 8
_LINE_THREADS = 4

_MAX_WAITING = 64
_LOCK_THREADS = 8  # for the short calls to Redis
_MAX_RETRY_S = 0.25


class ScoringWork:
    """The threads of one application.

    Attributes:
        short: for short scores and small batches of streamed lines.
        lines: for batches of many streamed lines.
        long: scores of many lines or of streams.
    """

    def __init__(self) -> None:
        self.short = anyio.CapacityLimiter(_SCORE_THREADS)
        self.lines = anyio.CapacityLimiter(_LINE_THREADS)
        self.long = LimitedWork("long scores", running=2, waiting=32, retry_after_s=5)
        self.calibrating = LimitedWork("calibrations", running=2, waiting=4, retry_after_s=30)
        self.evaluating = LimitedWork(
            "evaluations", running=1, waiting=2, retry_after_s=30, code="evaluation_busy"
        )

    def close(self) -> None:
        """End long work."""
        for work in (self.long, self.calibrating, self.evaluating):
            work.close()


class StreamLocks:
    """Acquires locks on streams for a bounded number of calls."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._threads = anyio.CapacityLimiter(_LOCK_THREADS)
        self._waiting = 0

    @asynccontextmanager
    async def hold(
        self, model: str, stream_id: str, *, size: int, owner: Owner, model_id: str = ""
    ) -> AsyncIterator[StreamLock]:
        """Hold the lock of a stream until the block ends; see `Streams.try_lock`.

        Raises:
            Busy: too many calls wait for locks.
            Conflict: other calls on this stream held the lock for too long (code `stream_busy`).
        """
        lock = await self._wait(
            partial(self._streams.try_lock, model, stream_id, size=size, owner=owner, model_id=model_id),
            stream_id,
        )
        try:
            yield lock
        finally:
            ending = asyncio.ensure_future(anyio.to_thread.run_sync(lock.release, limiter=self._threads))
            with contextlib.suppress(RedisError, OSError):  # then the lock expires
                await asyncio.shield(ending)

    async def _wait(self, begin: Callable[[], StreamLock | None], stream_id: str) -> StreamLock:
        if self._waiting >= _MAX_WAITING:
            raise Busy(
                f"{self._waiting} calls wait for locks of streams; for each stream, send a call only when the"
                " one before has ended"
            )
        self._waiting += 1
        try:
            deadline, pause_s = time.monotonic() + WAIT_S, RETRY_S
            while (lock := await self._begin(begin)) is None:
                if time.monotonic() > deadline:
                    raise stream_busy(stream_id, WAIT_S)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_RETRY_S)
            return lock
        finally:
            self._waiting -= 1

    async def _begin(self, begin: Callable[[], StreamLock | None]) -> StreamLock | None:
        """Try once, in a thread. A lock acquired after its call was cancelled is released."""
        beginning = asyncio.ensure_future(anyio.to_thread.run_sync(begin, limiter=self._threads))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_release_unused)
            raise


def _release_unused(beginning: asyncio.Future[StreamLock | None]) -> None:
    lock = None if beginning.cancelled() or beginning.exception() else beginning.result()
    if lock:
        threading.Thread(target=lock.release, name="release stream lock").start()
