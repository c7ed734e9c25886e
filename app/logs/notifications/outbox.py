"""The outbox: messages to notification targets that wait, and the states last sent to each target, in Redis.

    nextchar:notifications:lease              the token of the process that sends; expires unless renewed
    nextchar:notifications:known:<target>     a hash: alert id -> JSON of the state last sent to the target
    nextchar:notifications:delivery:<id>      JSON: a message to a webhook
    nextchar:notifications:due:<target>       a sorted set: deliveries by the time of the next attempt
    nextchar:notifications:dead:<target>      a sorted set: deliveries that were given up, by time
    nextchar:notifications:outcomes           a hash: "<target> <outcome>" -> attempts with this outcome
    nextchar:notifications:health:<target>    a hash: last_success_at, last_error_at, last_error
    nextchar:notifications:records            a set: paths of records that were looked at, and ""

A delivery is queued in the same step in which the state that it reports is recorded, by the process that has
the lease, so it is queued once. It is delivered at least once, with the same id each time.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import Field
from redis import Redis

from nextchar.store.history import ImmutableRecord

RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Delays before the next attempt, as Standard Webhooks recommends; after the last one a delivery is dead."""

MAX_WAITING = 1_000
"""Deliveries that wait for one target; above it, the newest of the owner with the most are dead at once."""

MAX_DEAD = 1_000
"""Dead deliveries kept for one target; above it, the oldest of the owner that has the most are deleted."""

_PREFIX = "nextchar:notifications:"
_OUTCOMES, _RECORDS = f"{_PREFIX}outcomes", f"{_PREFIX}records"

_List = Literal["due", "dead"]


class Delivery(ImmutableRecord):
    """A message to a webhook. Times are Unix seconds.

    Attributes:
        id: sent with each attempt, so that a receiver can drop duplicates. body: its JSON. attempts: failed
        ones so far. last_error: why the last one failed. owner: whose share of the queue it takes.
    """

    id: str
    target: str
    body: str
    created_at: float
    attempts: int = 0
    next_at: float | None = None
    last_error: str | None = None
    owner: str = ""


class Health(ImmutableRecord):
    """The health of a target; None: never."""

    waiting: int = Field(description="Messages that wait for their next attempt.")
    dead: int = Field(description="Messages that were given up.")
    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the last request to the target failed."""
        return (self.last_error_at or 0.0) > (self.last_success_at or 0.0)


@dataclass(frozen=True)
class Outbox:
    """The messages in one Redis (with `decode_responses=True`)."""

    redis: Redis = field(repr=False)

    def sent_states(self, target: str) -> dict[str, Any]:
        """Return the state last sent to a target, by alert id."""
        stored = cast(dict[str, str], self.redis.hgetall(_key("known", target)))
        return {alert_id: json.loads(value) for alert_id, value in stored.items()}

    def record(self, target: str, states: Mapping[str, Any], deliveries: Iterable[Delivery] = ()) -> None:
        """Record the states sent to a target, by alert id, and queue the messages about them: in one step.

        A state of None says that the alert has ended. A message whose id is queued already is not queued.
        """
        with self.redis.pipeline() as pipe:
            for alert_id, state in states.items():
                if state is None:
                    pipe.hdel(_key("known", target), alert_id)
                else:
                    pipe.hset(_key("known", target), alert_id, json.dumps(state))
            for delivery in deliveries:
                pipe.set(_key("delivery", delivery.id), delivery.model_dump_json(), nx=True)
                pipe.zadd(_key("due", target), {delivery.id: delivery.created_at}, nx=True)
            pipe.execute()

    def drop_surplus(self, target: str, *, now: float) -> None:
        """Give up messages above MAX_WAITING, delete dead ones above MAX_DEAD: of owners with the most."""
        if self.redis.zcard(_key("due", target)) > MAX_WAITING:
            why = f"{MAX_WAITING:,} other messages wait for this target"
            for delivery in _in_turns(self.waiting(target))[MAX_WAITING:]:
                self._move(delivery.model_copy(update={"last_error": why}), "dead", now)
        if self.redis.zcard(_key("dead", target)) > MAX_DEAD:
            for delivery in _in_turns(self.dead(target))[MAX_DEAD:]:
                self._delete("dead", delivery)

    def seen_records(self) -> set[str]:
        """Return the records that were looked at, and "" if a round was completed."""
        return cast(set[str], self.redis.smembers(_RECORDS))

    def mark_records(self, new: set[str], deleted: set[str]) -> None:
        """Mark records as looked at, all in one step; forget deleted ones."""
        if new:
            self.redis.sadd(_RECORDS, *new)
        if deleted:
            self.redis.srem(_RECORDS, *deleted)

    def forget_records(self) -> None:
        """Forget which records were looked at: no target gets messages about them."""
        self.redis.delete(_RECORDS)

    def due(self, target: str, *, now: float, limit: int) -> list[Delivery]:
        """Return the deliveries whose next attempt is due: owners in turns, the one due longest first."""
        return _in_turns(self._deliveries("due", target, before=now))[:limit]

    def waiting(self, target: str) -> list[Delivery]:
        """Return all deliveries that wait, by their next attempt."""
        return self._deliveries("due", target)

    def dead(self, target: str) -> list[Delivery]:
        """Return the deliveries that were given up, newest first."""
        return self._deliveries("dead", target)[::-1]

    def succeeded(self, delivery: Delivery) -> None:
        """Delete a delivery that has arrived."""
        self._delete("due", delivery)

    def failed(self, delivery: Delivery, error: str, *, now: float) -> None:
        """Schedule the next attempt of a delivery, or give it up after the last one."""
        delays = RETRY_DELAYS_S[delivery.attempts :]
        next_at = now + delays[0] if delays else None
        change = {"attempts": delivery.attempts + 1, "last_error": error, "next_at": next_at}
        self._move(delivery.model_copy(update=change), "due" if delays else "dead", next_at or now)

    def count(self, target: str, error: str | None) -> None:
        """Count a request to a target, with its error or as successful."""
        now = time.time()
        with self.redis.pipeline() as pipe:
            pipe.hincrby(_OUTCOMES, f"{target} {'failed' if error else 'delivered'}", 1)
            values = {"last_error_at": now, "last_error": error} if error else {"last_success_at": now}
            pipe.hset(_key("health", target), mapping=cast(Any, values))
            pipe.execute()

    def health(self, target: str) -> Health:
        """Return the health of a target."""
        stored = cast(dict[str, str], self.redis.hgetall(_key("health", target)))
        times = {name: float(stored[name]) for name in ("last_success_at", "last_error_at") if name in stored}
        waiting, dead = (self.redis.zcard(_key(part, target)) for part in ("due", "dead"))
        return Health(last_error=stored.get("last_error"), waiting=waiting, dead=dead, **times)

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Return the requests so far, by target and outcome."""
        stored = cast(dict[str, str], self.redis.hgetall(_OUTCOMES))
        return {(name.split(" ")[0], name.split(" ")[1]): int(n) for name, n in stored.items()}

    def forget(self, target: str) -> None:
        """Delete all that is stored for a target."""
        deliveries = (*self.waiting(target), *self.dead(target))
        keys = [_key(part, target) for part in ("known", "due", "dead", "health")]
        self.redis.delete(*keys, *(_key("delivery", delivery.id) for delivery in deliveries))
        self.redis.hdel(_OUTCOMES, f"{target} failed", f"{target} delivered")

    def _delete(self, part: _List, delivery: Delivery) -> None:
        with self.redis.pipeline() as pipe:
            pipe.zrem(_key(part, delivery.target), delivery.id)
            pipe.delete(_key("delivery", delivery.id))
            pipe.execute()

    def _move(self, delivery: Delivery, to: _List, at: float) -> None:
        """Store a changed delivery, and its time in `to` alone."""
        other: _List = "due" if to == "dead" else "dead"
        with self.redis.pipeline() as pipe:
            pipe.set(_key("delivery", delivery.id), delivery.model_dump_json(), xx=True)
            pipe.zrem(_key(other, delivery.target), delivery.id)
            pipe.zadd(_key(to, delivery.target), {delivery.id: at})  # if it is gone, listing drops the id
            pipe.execute()

    def _deliveries(self, part: _List, target: str, *, before: float | str = "+inf") -> list[Delivery]:
        ids = cast(list[str], self.redis.zrangebyscore(_key(part, target), "-inf", before))
        stored = cast(list[str | None], self.redis.mget([_key("delivery", i) for i in ids])) if ids else []
        if lost := [one for one, value in zip(ids, stored, strict=True) if value is None]:
            self.redis.zrem(_key(part, target), *lost)
        return [Delivery.model_validate_json(value) for value in stored if value is not None]


def _in_turns(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Return the first delivery of each owner, then the second ones, and so on.

    So the last ones are those of the owners that have the most.
    """
    turns: Counter[str] = Counter()

    def turn(delivery: Delivery) -> int:
        turns[delivery.owner] += 1
        return turns[delivery.owner]

    return sorted(deliveries, key=turn)


def _key(part: str, of: str) -> str:
    return f"{_PREFIX}{part}:{of}"
