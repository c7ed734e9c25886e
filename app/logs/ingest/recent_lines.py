"""The newest ingested lines that were scored, kept to notice drift and to calibrate on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis

from nextchar.app.logs.ingest.keys import key

MAX_RECENT_LINES = 1_000
"""Lines that are kept of each model."""

MAX_RECENT_BYTES = 4_000
"""Longer lines are not kept."""

_TTL_S = 7 * 86_400


@dataclass(frozen=True)
class RecentLine:
    """A line that was scored; `calibration` says with which, `is_unusual` whether it was of the top tenth."""

    data: bytes
    calibration: str
    is_unusual: bool


class RecentLines:
    """The newest scored lines of each model on one Redis, on a connection that does not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, model: str, lines: Sequence[RecentLine]) -> None:
        """Keep scored lines in place of older ones."""
        kept = [line for line in lines if len(line.data) <= MAX_RECENT_BYTES]
        if not kept:
            return
        recent, unusual = key(model, "recent"), key(model, "unusual")
        with self._redis.pipeline() as pipe:
            pipe.rpush(recent, *(line.data for line in kept))
            pipe.rpush(unusual, *(f"{line.calibration} {int(line.is_unusual)}" for line in kept))
            for name in (recent, unusual):
                pipe.ltrim(name, -MAX_RECENT_LINES, -1)
                pipe.expire(name, _TTL_S)
            pipe.execute()

    def read(self, model: str) -> list[bytes]:
        """Return the newest scored lines, the oldest first."""
        return cast(list[bytes], self._redis.lrange(key(model, "recent"), 0, -1))

    def unusual(self, model: str) -> tuple[int, int]:
        """Return how many recent lines the newest calibration judged, and how many as unusual."""
        found = cast(list[bytes], self._redis.lrange(key(model, "unusual"), 0, -1))
        if not found:
            return 0, 0
        newest = found[-1].rpartition(b" ")[0]
        judged = [one.rpartition(b" ") for one in found]
        flags = [flag for calibration, _, flag in judged if calibration == newest]
        return len(flags), flags.count(b"1")

    def forget(self, model: str) -> None:
        """Forget the recent lines, as after calibrating on them."""
        self._redis.delete(key(model, "recent"), key(model, "unusual"))
