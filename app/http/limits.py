"""The limits on what one API process admits: their sizes, and how what exceeds one is refused.

    raise JOBS_OF_KEY.refusal("this key has 3 jobs")
    await services.pools.queue(LONG_SCORES).run(work)

All are here, of six kinds; docs/reference/limits.md has them for users, which a test compares. Threads are
counted in `nextchar.app.http.threads`, the memory of bodies in `nextchar.app.http.incoming_body`, the backlog
of the scheduler in `nextchar.models.runtime.prefill`; requests of keys and the disk below. Those of keys are
counted in Redis, across all API processes:

    nextchar:in_progress:<kind>:<key name>   a sorted set: each one by the time when it expires

A process renews the entries of what it serves, so those of a killed process expire after TTL_S.
"""

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from prometheus_client import Counter
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from nextchar.models.errors import Busy, StorageFull
from nextchar.store.blobs import Blobs

log = logging.getLogger("nextchar.api")

Kind = Literal["rate", "concurrency", "memory", "threads", "backlog", "disk"]


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        name: plural name of what is limited; in threads' names, messages and the documentation.
        running: how many run at a time; 0: a setting or an API key says it.
        waiting: how many more of one client wait for that; further ones are refused. None: none is refused.
        status, code: of the refusal.
        retry_after_s: when a refused client may retry; None: it depends, or time does not help.
    """

    name: str
    kind: Kind
    running: int = 0
    waiting: int | None = None
    status: int = 429
    code: str = "busy"
    retry_after_s: float | None = 1.0

    def refusal(self, message: str, *, retry_after_s: float | None = None) -> Exception:
        """Return the exception for what exceeds the limit; `retry_after_s`: if it is known better."""
        if self.status == 507:
            return StorageFull(message, code=self.code)
        retry_after_s = retry_after_s or self.retry_after_s
        assert retry_after_s, "says when to retry"
        if self.status == 429:
            return Busy(message, retry_after_s=retry_after_s, code=self.code)
        return HTTPException(self.status, message, {"Retry-After": f"{retry_after_s:.0f}"})


RATE_OF_KEY = Limit("rate of a key", "rate", code="rate_limited", retry_after_s=None)
REQUESTS_OF_KEY = Limit("requests of a key", "concurrency", code="too_many_requests")
STREAMS_OF_KEY = Limit("streams of a key", "concurrency", code="too_many_streams")
JOBS_OF_KEY = Limit("jobs of a key", "concurrency", code="job_quota_reached", retry_after_s=30)
BATCHES_OF_KEY = Limit("batches of a key", "concurrency", code="batch_quota_reached", retry_after_s=30)
CONNECTIONS = Limit("connections", "concurrency", status=503, code="overloaded")
DOWNLOADS = Limit("downloads", "concurrency", 8, 0, code="downloads_busy", retry_after_s=10)
LOCKS = Limit("calls that wait for a stream of lines", "concurrency", 64)
EVENTS = Limit("events", "concurrency", 32, status=503, code="queue_unavailable")
BODIES = Limit("bodies", "memory", status=503, code="overloaded")
INGESTED_LINES = Limit("ingested lines", "memory", code="ingest_full", retry_after_s=5)
SHORT_SCORES = Limit("short scores", "threads", 8)
SUGGESTIONS = Limit("suggestions", "threads", 1, 256)
STREAMED_LINES = Limit("batches of streamed lines", "threads", 4)
LONG_SCORES = Limit("long scores", "threads", 2, 32, retry_after_s=5)
LONG_PROMPTS = Limit("long prompts", "threads", 2, 64, retry_after_s=5)
CALIBRATIONS = Limit("calibrations", "threads", 2, 4, retry_after_s=30)
EVALUATIONS = Limit("evaluations", "threads", 1, 2, code="evaluation_busy", retry_after_s=30)
IMPORTS = Limit("imports of models", "threads", 1, 4, code="import_busy", retry_after_s=30)
LOADING = Limit("loading of models", "threads", 8)
# Parsing holds the GIL: with several threads, the event loop would wait for all of them.
LARGE_BODIES = Limit("parsing JSON bodies over 256 KiB", "threads", 1)
INGEST_PARSING = Limit("parsing of ingested lines", "threads", 2)
INGEST_STORING = Limit("storing of ingested lines", "threads", 16)  # they wait for the disk
FEEDS = Limit("events of streams", "threads", 4)
LOCKING = Limit("locks of streams of lines", "threads", 8)  # short calls to Redis
HEALTH = Limit("health", "threads", 4)  # /readyz is not delayed by calls that hang on the storage
RECORDS_OF_CLIENT = Limit("records of a client", "threads", 30)
SCHEDULER = Limit("scheduler", "backlog", 64, retry_after_s=None)
DISK = Limit("free disk space", "disk", status=507, code="storage_low", retry_after_s=None)


_REDIS_TIMEOUT_S = 0.25  # every request of a key with limits waits for Redis
_PAUSE_S = 2.0  # without Redis calls after Redis has failed
_WARN_EVERY_S = 60.0

TTL_S = 60
"""Time after which the requests of a killed process are no longer counted."""

# KEYS: the set; ARGV: limit, member, TTL.
_ACQUIRE = """
local now = tonumber(redis.call('time')[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('zadd', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('expire', KEYS[1], ARGV[3])
return 1
"""
# KEYS: the set; ARGV: member, TTL.
_RENEW = """
local now = tonumber(redis.call('time')[1])
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('expire', KEYS[1], ARGV[2])
"""

T = TypeVar("T")


class KeyLimits:
    """Limits the requests of keys, over sliding windows, and what they have in progress. For one event loop.

    While Redis does not respond, nothing is limited.
    """

    def __init__(self, redis_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pool = ConnectionPool.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._redis = Redis(connection_pool=self._pool)
        self._windows: Any = None
        self._held: dict[str, str] = {}  # by member: the set that it is in
        self._renewing: asyncio.Task[None] | None = None
        self._warned_at = self._failed_at = -_WARN_EVERY_S
        self.limited = Counter(
            "nextchar_rate_limited_requests_total",
            "Requests that were refused because their API key has exceeded its rate.",
            ("key",),
            registry=None,
        )

    async def count(self, key_name: str, rate: Any) -> None:
        """Count one request of a key; `rate` is one of the library `limits`.

        Raises:
            Busy: the key has exceeded its rate (code `rate_limited`).
        """
        if self._windows is None:
            self._windows = self._connect()

        async def hit() -> float | None:
            if await self._windows.hit(rate, key_name):
                return None
            return float((await self._windows.get_window_stats(rate, key_name)).reset_time)

        reset_at = await self._ask(hit, None)
        if reset_at is not None:
            self.limited.labels(key_name).inc()
            raise RATE_OF_KEY.refusal(
                f"this key may make {rate} requests; wait a moment",
                retry_after_s=max(1.0, reset_at - time.time()),
            )

    @asynccontextmanager
    async def hold(self, limit: Limit, key_name: str, count: int) -> AsyncIterator[None]:
        """Count one of the requests or streams that a key has in progress for a block.

        Raises:
            Busy: the key has `count`, as many as it may have.
        """
        kind, member = limit.name.split()[0], secrets.token_hex()
        name = f"nextchar:in_progress:{kind}:{key_name}"
        acquire = partial(self._redis.eval, _ACQUIRE, 1, name, str(count), member, str(TTL_S))
        is_counted = await self._ask(acquire, None)
        if is_counted == 0:
            raise limit.refusal(
                f"this key may have {count} {kind} in progress at once; wait until one has ended"
            )
        if is_counted:
            self._held[member] = name
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            # Shielded: a request that is cancelled must be counted off, too.
            await asyncio.shield(self._release(member))

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._renewing:
            self._renewing.cancel()
        await self._pool.aclose()

    def _connect(self) -> Any:
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from limits.storage import storage_from_string

        pool: Any = self._pool  # `limits` declares the options that it passes on to Redis as plain values
        storage: Any = storage_from_string(
            "async+redis://", implementation="redispy", key_prefix="nextchar:rate", connection_pool=pool
        )
        return SlidingWindowCounterRateLimiter(storage)

    async def _ask(self, question: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the answer of Redis; `otherwise` if it does not respond, or did not a moment ago."""
        if self._clock() - self._failed_at < _PAUSE_S:
            return otherwise
        try:
            return await question()
        except (RedisError, OSError) as error:
            self._failed_at = self._clock()
            if self._failed_at - self._warned_at >= _WARN_EVERY_S:
                self._warned_at = self._failed_at
                log.warning("API keys are not limited while Redis does not respond: %s", error)
            return otherwise

    async def _release(self, member: str) -> None:
        name = self._held.pop(member, None)
        if name is not None:
            with contextlib.suppress(RedisError, OSError):  # it expires
                await self._redis.zrem(name, member)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(TTL_S / 3)
            for member, name in list(self._held.items()):
                with contextlib.suppress(RedisError, OSError):
                    if member in self._held:
                        await self._redis.eval(_RENEW, 1, name, member, str(TTL_S))
                    if member not in self._held:  # it ended meanwhile
                        await self._redis.zrem(name, member)


@dataclass(frozen=True)
class DiskWatermark:
    """Checks the disk of the storage, if it is a folder, and the one on which uploads are spooled.

    Attributes:
        min_free_bytes: the watermark; 0: none.
    """

    blobs: Blobs
    data_dir: Path
    min_free_bytes: int

    def check(self, *, needed_bytes: int = 0) -> None:
        """Check that there is room for this many bytes above the watermark.

        Raises:
            StorageFull: there is not (code `storage_low`).
        """
        free_bytes = self.free_bytes()
        if self.min_free_bytes and free_bytes is not None and free_bytes - needed_bytes < self.min_free_bytes:
            raise DISK.refusal(
                f"the disk has {free_bytes:,} bytes free and keeps {self.min_free_bytes:,} of them"
                " (NEXTCHAR_MIN_FREE_BYTES); delete corpora or models, or free disk space, and try again"
            )

    def free_bytes(self) -> int | None:
        """Return the free bytes of the fuller disk; None if that of uploads does not exist yet."""
        stored = self.blobs.free_bytes()
        try:
            spooled = shutil.disk_usage(self.data_dir).free
        except OSError:  # the upload itself says why
            return stored
        return spooled if stored is None else min(stored, spooled)
