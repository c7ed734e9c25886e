"""Rate limits of API keys, counted in Redis across all API processes."""

import logging
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from nextchar.app.access.keys import Key
from nextchar.models.errors import Busy

log = logging.getLogger("nextchar.api")

_REDIS_TIMEOUT_S = 0.25  # every keystroke with a key waits for Redis
_PAUSE_S = 2.0  # without Redis calls after Redis has failed
_WARN_EVERY_S = 60.0


class RateLimits:
    """Counts each key's requests over sliding windows. Limits nothing while Redis does not respond."""

    def __init__(self, redis_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pool = ConnectionPool.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._limiter: Any = None
        self._warned_at = -_WARN_EVERY_S
        self._failed_at = -_PAUSE_S
        self.limited = Counter(
            "nextchar_rate_limited_requests_total",
            "Requests that were refused because their API key has exceeded its rate.",
            ("key",),
            registry=None,
        )

    async def count(self, key: Key) -> None:
        """Count one request. Raises Busy if the key has exceeded its rate."""
        assert key.rate is not None
        if self._clock() - self._failed_at < _PAUSE_S:
            return
        if self._limiter is None:
            self._limiter = self._connect()
        try:
            if await self._limiter.hit(key.rate, key.name):
                return
            window = await self._limiter.get_window_stats(key.rate, key.name)
        except (RedisError, OSError) as error:
            self._failed_at = self._clock()
            self._warn(error)
            return
        self.limited.labels(key.name).inc()
        raise Busy(
            f"this key may make {key.rate} requests; wait a moment",
            retry_after_s=max(1.0, window.reset_time - time.time()),
            code="rate_limited",
        )

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._pool.aclose()

    def _connect(self) -> Any:
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from limits.storage import storage_from_string

        pool: Any = self._pool  # `limits` declares the options that it passes on to Redis as plain values
        storage: Any = storage_from_string(
            "async+redis://", implementation="redispy", key_prefix="nextchar:rate", connection_pool=pool
        )
        return SlidingWindowCounterRateLimiter(storage)

    def _warn(self, error: Exception) -> None:
        if self._failed_at - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = self._failed_at
            log.warning("rate limits are not enforced while Redis does not respond: %s", error)
