"""Prompts that users sent, recorded for shadow runs of other versions: in Redis, bounded, off by default.

    nextchar:prompts:<model name>   a list: the prompts, newest first; expires a while after the newest

They are not in backups, and no call returns them. They are deleted with the last version of their model; the
retention sweep deletes what a process has left that was killed in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

TTL_S = 7 * 86_400
"""Time from the newest prompt of a model until all of them are deleted."""

_PREFIX = "nextchar:prompts:"


@dataclass(frozen=True)
class RecordedPrompts:
    """The prompts in one Redis (with `decode_responses=True`); `limit`: kept per model, 0: none."""

    redis: Redis = field(repr=False)
    limit: int

    def add(self, model: str, prompts: Sequence[str]) -> None:
        """Record prompts of a model's name; the oldest above the limit are deleted."""
        if not prompts or not self.limit:
            return
        key = _PREFIX + model
        with self.redis.pipeline() as pipe:
            pipe.lpush(key, *prompts)
            pipe.ltrim(key, 0, self.limit - 1)
            pipe.expire(key, TTL_S)
            pipe.execute()

    def all(self, model: str) -> list[str]:
        """Return the prompts of a model's name, newest first."""
        return cast(list[str], self.redis.lrange(_PREFIX + model, 0, -1))

    def models(self) -> list[str]:
        """Return the names of the models of which there are prompts."""
        keys = cast(Iterator[str], self.redis.scan_iter(match=f"{_PREFIX}*", count=1000))
        return [key.removeprefix(_PREFIX) for key in keys]

    def delete(self, model: str) -> None:
        """Delete the prompts of a model's name."""
        self.redis.delete(_PREFIX + model)
