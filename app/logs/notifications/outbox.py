"""The outbox: messages to notification targets that wait, and the states last sent to each target, in Redis.

    nextchar:notifications:lease              the token of the process that sends; expires unless renewed
    nextchar:notifications:known:<target>     a hash: alert id -> JSON of the state last sent to the target
    nextchar:notifications:delivery:<id>      JSON: a message to a webhook
    nextchar:notifications:due:<target>       a sorted set: deliveries by the time of the next attempt
    nextchar:notifications:dead:<target>      a sorted set: deliveries that were given up, by time
    nextchar:notifications:dropped:<target>   a hash: model -> messages given up, as too many waited, since
                                              the last summary; "" -> since when
    nextchar:notifications:outcomes           a hash: "<target> <outcome>" -> attempts with this outcome
    nextchar:notifications:health:<target>    a hash: last_success_at, last_error_at, last_error
    nextchar:notifications:records            a set: paths of records that were looked at, and ""

A delivery is queued in the same step in which the state sent to the target is recorded, so it is queued once.
It is delivered at least once, with the same id each time.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from typing import Any, Literal, cast

from redis import Redis

from nextchar.models.errors import NotFound

RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Delays before the next attempt, as Standard Webhooks recommends; after the last one a delivery is dead."""

MAX_WAITING = 1_000
"""Deliveries that wait for one target; above it, the newest of the owner with the most are dead at once."""

MAX_DEAD = 1_000
"""Dead deliveries kept for one target; above it, the oldest of the owner that has the most are deleted."""

_PREFIX = "nextchar:notifications:"
_OUTCOMES, _RECORDS = f"{_PREFIX}outcomes", f"{_PREFIX}records"

# KEYS: delivery, due, sent states; ARGV: delivery's id, JSON and time, alert id (none: of a record), the
# state sent before, the new state.
_QUEUE = """
local delivery, due, known = unpack(KEYS)
local id, stored, at, alert, before, after = unpack(ARGV)
if alert == '' then
  if redis.call('exists', delivery) == 1 then return 0 end
elseif (redis.call('hget', known, alert) or '') ~= before then return 0
elseif after == '' then redis.call('hdel', known, alert) else redis.call('hset', known, alert, after) end
redis.call('set', delivery, stored)
return redis.call('zadd', due, at, id)
"""
# KEYS: delivery, due, dead, one of these; ARGV: delivery's id, JSON and time.
_MOVE = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end -- it has arrived, or its target was deleted
redis.call('set', KEYS[1], ARGV[2])
redis.call('zrem', KEYS[2], ARGV[1])
redis.call('zrem', KEYS[3], ARGV[1])
redis.call('zadd', KEYS[4], ARGV[3], ARGV[1])
return 1
"""


@dataclass(frozen=True)
class Delivery:
    """A message to a webhook. Times are Unix seconds.

    Attributes:
        id: sent with each attempt, so that a receiver can drop duplicates. body: its JSON. attempts: failed
        ones so far. last_error: why the last one failed. model: the model that it is about. owner: whose
        share of the queue it takes.
    """

    id: str
    target: str
    body: str
    created_at: float
    attempts: int = 0
    next_at: float | None = None
    last_error: str | None = None
    model: str = ""
    owner: str = ""


@dataclass(frozen=True)
class Health:
    """The health of a target; None: never."""

    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None
    waiting: int = 0
    dead: int = 0

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

    def save_sent_states(self, target: str, states: Mapping[str, Any]) -> None:
        """Record the states sent to a target, by alert id; None: the alert has ended."""
        with self.redis.pipeline() as pipe:
            for alert_id, state in states.items():
                if state is None:
                    pipe.hdel(_key("known", target), alert_id)
                else:
                    pipe.hset(_key("known", target), alert_id, _dumps(state))
            pipe.execute()

    def queue(self, delivery: Delivery, *, alert_id: str = "", before: Any = None, after: Any = None) -> bool:
        """Queue a message, with the change of the state of an alert that it reports; None: no state.

        Return False if another state was sent meanwhile, or, without an alert, if it is queued already.
        """
        keys = [_key(part, delivery.target) for part in ("due", "known")]
        states = ["" if state is None else _dumps(state) for state in (before, after)]
        stored = (delivery.id, _dumps(asdict(delivery)), str(delivery.created_at))
        return bool(
            self.redis.eval(_QUEUE, 3, _key("delivery", delivery.id), *keys, *stored, alert_id, *states)
        )

    def drop_surplus(self, target: str, *, now: float) -> None:
        """Give up messages above MAX_WAITING, delete dead ones above MAX_DEAD: of owners with the most."""
        if self.redis.zcard(_key("due", target)) > MAX_WAITING:
            surplus = _in_turns(self.waiting(target))[MAX_WAITING:]
            why = f"{MAX_WAITING:,} other messages wait for this target"
            with self.redis.pipeline(transaction=False) as pipe:
                for delivery in surplus:
                    _move(pipe, replace(delivery, last_error=why), "dead", now)
                for model, count in Counter(delivery.model or "?" for delivery in surplus).items():
                    pipe.hincrby(_key("dropped", target), model, count)
                pipe.hsetnx(_key("dropped", target), "", str(now))
                pipe.execute()
        if self.redis.zcard(_key("dead", target)) > MAX_DEAD:
            self._delete("dead", target, _in_turns(self.dead(target))[MAX_DEAD:])

    def take_dropped(self, target: str) -> tuple[float, dict[str, int]]:
        """Return since when how many messages about each model were given up as too many waited; forget it.

        None are returned as long as there is no room for a message about them.
        """
        if self.redis.zcard(_key("due", target)) >= MAX_WAITING:
            return 0.0, {}
        with self.redis.pipeline() as pipe:
            pipe.hgetall(_key("dropped", target))
            pipe.delete(_key("dropped", target))
            dropped = pipe.execute()[0]
        since = float(dropped.pop("", 0.0))
        return since, {model: int(count) for model, count in sorted(dropped.items())}

    def seen_records(self, known: set[str]) -> set[str]:
        """Return the records that were looked at, and "" if a round was completed; `known`: as of before."""
        if self.redis.scard(_RECORDS) == len(known):
            return known
        return cast(set[str], self.redis.smembers(_RECORDS))

    def mark_records(self, new: Iterable[str], deleted: Iterable[str]) -> None:
        """Mark records as looked at, "" as the last one; forget deleted ones."""
        with self.redis.pipeline(transaction=False) as pipe:
            for path in sorted(new, reverse=True):
                pipe.sadd(_RECORDS, path)
            for path in deleted:
                pipe.srem(_RECORDS, path)
            pipe.execute()

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
        self._delete("due", delivery.target, [delivery])

    def failed(self, delivery: Delivery, error: str, *, now: float) -> None:
        """Schedule the next attempt of a delivery, or give it up after the last one."""
        failed = replace(delivery, attempts=delivery.attempts + 1, last_error=error, next_at=None)
        if failed.attempts > len(RETRY_DELAYS_S):
            _move(self.redis, failed, "dead", now)
        else:
            next_at = now + RETRY_DELAYS_S[failed.attempts - 1]
            _move(self.redis, replace(failed, next_at=next_at), "due", next_at)

    def replay(self, target: str, delivery_id: str) -> Delivery:
        """Queue a delivery again, now: one that is dead or waits. Raises NotFound."""
        now = time.time()
        for delivery in (*self.waiting(target), *self.dead(target)):
            replayed = replace(delivery, attempts=0, next_at=now)
            if delivery.id == delivery_id and _move(self.redis, replayed, "due", now):
                return replayed
        message = f"target {target} has no delivery {delivery_id!r}; it may have arrived"
        raise NotFound(message, code="delivery_not_found")

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
        sets = (self.redis.zrange(_key(part, target), 0, -1) for part in ("due", "dead"))
        ids = [delivery_id for ids in sets for delivery_id in cast(list[str], ids)]
        keys = [_key(part, target) for part in ("known", "due", "dead", "dropped", "health")]
        self.redis.delete(*keys, *(_key("delivery", i) for i in ids))
        self.redis.hdel(_OUTCOMES, f"{target} failed", f"{target} delivered")

    def _delete(self, part: Literal["due", "dead"], target: str, deliveries: Sequence[Delivery]) -> None:
        with self.redis.pipeline() as pipe:
            pipe.zrem(_key(part, target), *(delivery.id for delivery in deliveries))
            pipe.delete(*(_key("delivery", delivery.id) for delivery in deliveries))
            pipe.execute()

    def _deliveries(
        self, part: Literal["due", "dead"], target: str, *, before: float | str = "+inf"
    ) -> list[Delivery]:
        ids = cast(list[str], self.redis.zrangebyscore(_key(part, target), "-inf", before))
        stored = cast(list[str | None], self.redis.mget([_key("delivery", i) for i in ids])) if ids else []
        if lost := list(compress(ids, [value is None for value in stored])):
            self.redis.zrem(_key(part, target), *lost)
        return [Delivery(**json.loads(value)) for value in stored if value is not None]


def _move(redis: Redis, delivery: Delivery, to: Literal["due", "dead"], at: float) -> Any:
    """Store a changed delivery, and its time in `to` alone. Return 0 if it is gone."""
    keys = (_key("delivery", delivery.id), *(_key(part, delivery.target) for part in ("due", "dead", to)))
    return redis.eval(_MOVE, 4, *keys, delivery.id, _dumps(asdict(delivery)), str(at))


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


def _dumps(value: Any) -> str:
    """Return JSON that is the same for the same value: states are compared by it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
