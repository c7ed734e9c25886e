"""How many lines were scored in the last hour, for the overview of the console.

    nextchar:scored:<n>   a hash of counts by model name, for one minute of Unix time; expires

A process adds its counts to Redis at most once a second, so that a call with one line costs nothing.
"""

import threading
import time
from collections import Counter
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

_KEY = "nextchar:scored:"
_MINUTES = 60
_TTL_S = (_MINUTES + 2) * 60
_FLUSH_EVERY_S = 1.0


class ScoredLines:
    """The counts of all processes that share a Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._lock = threading.Lock()
        self._pending: Counter[str] = Counter()
        self._flushed_at_s = 0.0

    def add(self, model: str, lines: int) -> None:
        """Count lines that a model (its name) has scored. Without Redis they are counted later."""
        with self._lock:
            self._pending[model] += lines
            if time.monotonic() - self._flushed_at_s < _FLUSH_EVERY_S:
                return
            self._flushed_at_s = time.monotonic()
        self._flush()

    def last_hour(self) -> dict[str, int]:
        """Return the lines of the last hour by model name. Raises RedisError."""
        self._flush()
        now = int(time.time() // 60)
        with self._redis.pipeline() as pipe:
            for minute in range(now - _MINUTES + 1, now + 1):
                pipe.hgetall(f"{_KEY}{minute}")
            minutes = cast(list[dict[str, str]], pipe.execute())
        total: Counter[str] = Counter()
        for counts in minutes:
            total.update({model: int(count) for model, count in counts.items()})
        return dict(total)

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, Counter()
        if not pending:
            return
        key = f"{_KEY}{int(time.time() // 60)}"
        try:
            with self._redis.pipeline() as pipe:
                for model, lines in pending.items():
                    pipe.hincrby(key, model, lines)
                pipe.expire(key, _TTL_S)
                pipe.execute()
        except RedisError:
            with self._lock:
                self._pending.update(pending)
