"""Messages to notification targets that wait, and the state last sent to each target: in Redis.

    nextchar:notifications:lease                 the token of the process that sends; expires unless renewed
    nextchar:notifications:known:<target>        a hash: alert id -> JSON of the state last sent to the target
    nextchar:notifications:delivery:<id>         JSON: a message to a webhook
    nextchar:notifications:due:<target>          a sorted set: deliveries by the time of the next attempt
    nextchar:notifications:dead:<target>         a sorted set: deliveries that were given up, by time
    nextchar:notifications:outcomes              a hash: "<target> <outcome>" -> attempts with this outcome
    nextchar:notifications:health:<target>       a hash: last_success_at, last_error_at, last_error
    nextchar:notifications:records               a set: paths of records that were looked at (`store.events`)

A delivery is queued in the same step in which the state sent to the target is recorded, so it is queued
once. It is delivered at least once, with the same id each time. The id of a message about a record is derived
from the record, and the record is marked as seen only when its messages are queued: after a process was
killed in between, they are queued again under the same id.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from typing import Any, cast

from redis import Redis

from models.errors import NotFound
from store import lease
from store.ids import is_id, new_id

LEASE_S = 60
"""A process that has not renewed its lease for this long lets another one send."""

RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Delays before the next attempt, as Standard Webhooks recommends; after the last one a delivery is dead."""

MAX_WAITING = 1_000
"""Deliveries that wait for one target; further ones are dead at once."""

MAX_DEAD = 1_000
"""Dead deliveries kept for one target; the oldest are deleted."""

_PREFIX = "nextchar:notifications:"
_RECORDS = f"{_PREFIX}records"

# KEYS: sent states, due, dead; ARGV: alert id (none: of a record), the state sent before, the new state,
# delivery id, its JSON, its JSON if it is dead at once, now, limits, prefix of deliveries.
_QUEUE = """
local known, due, dead = KEYS[1], KEYS[2], KEYS[3]
local alert, before, after, id, delivery, if_dead, now, max_waiting, max_dead, prefix = unpack(ARGV)
if alert == '' then
  if redis.call('exists', prefix .. id) == 1 then return 0 end
elseif (redis.call('hget', known, alert) or '') ~= before then return 0
elseif after == '' then redis.call('hdel', known, alert) else redis.call('hset', known, alert, after) end
if redis.call('zcard', due) >= tonumber(max_waiting) then
  redis.call('set', prefix .. id, if_dead)
  redis.call('zadd', dead, now, id)
  while redis.call('zcard', dead) > tonumber(max_dead) do
    local oldest = redis.call('zpopmin', dead)[1]
    redis.call('del', prefix .. oldest)
  end
  return 2
end
redis.call('set', prefix .. id, delivery)
redis.call('zadd', due, now, id)
return 1
"""
# KEYS: due, dead; ARGV: delivery id, its JSON, now, max_dead, prefix.
_MOVE_TO_DEAD = """
if redis.call('zrem', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('set', ARGV[5] .. ARGV[1], ARGV[2])
redis.call('zadd', KEYS[2], ARGV[3], ARGV[1])
while redis.call('zcard', KEYS[2]) > tonumber(ARGV[4]) do
  local oldest = redis.call('zpopmin', KEYS[2])[1]
  redis.call('del', ARGV[5] .. oldest)
end
return 1
"""


@dataclass(frozen=True)
class Delivery:
    """A message to a webhook. Times are Unix seconds.

    Attributes:
        id: sent with each attempt, so that a receiver can drop duplicates. body: its JSON. attempts: failed
        ones so far. last_error: why the last one failed.
    """

    id: str
    target: str
    body: str
    created_at: float
    attempts: int = 0
    next_at: float | None = None
    last_error: str | None = None


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
class Notifications:
    """The messages in one Redis (with `decode_responses=True`)."""

    redis: Redis = field(repr=False)

    def acquire_lease(self, token: str) -> bool:
        """Acquire or renew the lease; return False if another process sends."""
        return lease.acquire_or_renew(self.redis, f"{_PREFIX}lease", token, LEASE_S)

    def release_lease(self, token: str) -> None:
        """Release the lease if `token` holds it."""
        lease.release(self.redis, f"{_PREFIX}lease", token)

    def sent_states(self, target: str) -> dict[str, Any]:
        """Return the state last sent to a target, by alert id."""
        stored = cast(dict[str, str], self.redis.hgetall(f"{_PREFIX}known:{target}"))
        return {alert_id: json.loads(value) for alert_id, value in stored.items()}

    def save_sent_states(self, target: str, states: dict[str, Any], ended: list[str]) -> None:
        """Record the states sent to a target, and remove alerts that have ended."""
        with self.redis.pipeline() as pipe:
            if states:
                pipe.hset(
                    f"{_PREFIX}known:{target}", mapping={key: _dumps(value) for key, value in states.items()}
                )
            if ended:
                pipe.hdel(f"{_PREFIX}known:{target}", *ended)
            pipe.execute()

    def queue(self, target: str, alert_id: str, *, before: Any, after: Any, body: str, now: float) -> bool:
        """Queue a message that changes the state sent to a target of an alert from `before` to `after`.

        None: no state. Return False if another state was sent meanwhile.
        """
        values = ("" if before is None else _dumps(before), "" if after is None else _dumps(after))
        return self._queue(Delivery(new_id("msg"), target, body, now), alert_id, *values)

    def queue_event(self, target: str, name: str, body: str, *, now: float) -> bool:
        """Queue a message about an event, unless it is queued already; return whether it was queued.

        Its id is the same each time.
        """
        digest = hashlib.sha256(f"{target}\n{name}".encode()).hexdigest()[:32]
        return self._queue(Delivery(f"msg_{digest}", target, body, now))

    def _queue(self, delivery: Delivery, alert_id: str = "", before: str = "", after: str = "") -> bool:
        target = delivery.target
        keys = (f"{_PREFIX}known:{target}", f"{_PREFIX}due:{target}", f"{_PREFIX}dead:{target}")
        if_dead = replace(delivery, last_error=f"{MAX_WAITING:,} other messages wait for this target")
        queued = self.redis.eval(
            _QUEUE,
            3,
            *keys,
            alert_id,
            before,
            after,
            delivery.id,
            _dumps(asdict(delivery)),
            _dumps(asdict(if_dead)),
            str(delivery.created_at),
            str(MAX_WAITING),
            str(MAX_DEAD),
            f"{_PREFIX}delivery:",
        )
        return bool(queued)

    def has_records(self) -> bool:
        """Return whether any record was marked since `forget_records`, or since Redis lost its data."""
        return bool(self.redis.exists(_RECORDS))

    def unseen_records(self, paths: Sequence[str]) -> list[str]:
        """Return those of the records that were not looked at yet."""
        if not paths:
            return []
        seen = cast(list[int], self.redis.smismember(_RECORDS, list(paths)))
        return list(compress(paths, [not is_seen for is_seen in seen]))

    def mark_records_seen(self, paths: Sequence[str], *, deleted: Sequence[str] = ()) -> None:
        """Mark records as looked at; forget deleted ones."""
        with self.redis.pipeline() as pipe:
            pipe.sadd(_RECORDS, "", *paths)  # "": also if there is no record yet
            if deleted:
                pipe.srem(_RECORDS, *deleted)
            pipe.execute()

    def seen_records(self) -> set[str]:
        """Return the records that were looked at."""
        return {path for path in cast(set[str], self.redis.smembers(_RECORDS)) if path}

    def forget_records(self) -> None:
        """Forget which records were looked at: no target gets messages about them."""
        self.redis.delete(_RECORDS)

    def due(self, target: str, *, now: float, limit: int) -> list[Delivery]:
        """Return the deliveries whose next attempt is due, the one due longest first."""
        ids = cast(list[str], self.redis.zrangebyscore(f"{_PREFIX}due:{target}", "-inf", now, 0, limit))
        return self._deliveries(f"{_PREFIX}due:{target}", ids)

    def waiting(self, target: str) -> list[Delivery]:
        """Return all deliveries that wait, by their next attempt."""
        return self._deliveries(f"{_PREFIX}due:{target}", self._ids(f"{_PREFIX}due:{target}"))

    def dead(self, target: str) -> list[Delivery]:
        """Return the deliveries that were given up, newest first."""
        return self._deliveries(f"{_PREFIX}dead:{target}", self._ids(f"{_PREFIX}dead:{target}"))[::-1]

    def succeeded(self, delivery: Delivery) -> None:
        """Delete a delivery that has arrived."""
        with self.redis.pipeline() as pipe:
            pipe.zrem(f"{_PREFIX}due:{delivery.target}", delivery.id)
            pipe.delete(f"{_PREFIX}delivery:{delivery.id}")
            pipe.execute()
        self.count(delivery.target, None)

    def failed(self, delivery: Delivery, error: str, *, now: float) -> None:
        """Schedule the next attempt of a delivery, or give it up after the last one."""
        failed = replace(delivery, attempts=delivery.attempts + 1, last_error=error, next_at=None)
        due, dead = f"{_PREFIX}due:{delivery.target}", f"{_PREFIX}dead:{delivery.target}"
        if failed.attempts > len(RETRY_DELAYS_S):
            stored = _dumps(asdict(failed))
            self.redis.eval(
                _MOVE_TO_DEAD, 2, due, dead, delivery.id, stored, str(now), MAX_DEAD, f"{_PREFIX}delivery:"
            )
        else:
            next_at = now + RETRY_DELAYS_S[failed.attempts - 1]
            with self.redis.pipeline() as pipe:
                pipe.set(
                    f"{_PREFIX}delivery:{delivery.id}",
                    _dumps(asdict(replace(failed, next_at=next_at))),
                    xx=True,
                )
                pipe.zadd(due, {delivery.id: next_at}, xx=True)  # unless the target was deleted
                pipe.execute()
        self.count(delivery.target, error)

    def replay(self, target: str, delivery_id: str) -> Delivery:
        """Queue a delivery again, now: one that is dead or waits. Raises NotFound."""
        stored = None
        if is_id("msg", delivery_id):
            stored = cast(str | None, self.redis.get(f"{_PREFIX}delivery:{delivery_id}"))
        if stored is None or json.loads(stored)["target"] != target:
            raise NotFound(
                f"target {target} has no delivery {delivery_id!r}; it may have arrived",
                code="delivery_not_found",
            )
        now = time.time()
        delivery = replace(Delivery(**json.loads(stored)), attempts=0, next_at=now)
        with self.redis.pipeline() as pipe:
            pipe.set(f"{_PREFIX}delivery:{delivery_id}", _dumps(asdict(delivery)))
            pipe.zrem(f"{_PREFIX}dead:{target}", delivery_id)
            pipe.zadd(f"{_PREFIX}due:{target}", {delivery_id: now})
            pipe.execute()
        return delivery

    def count(self, target: str, error: str | None) -> None:
        """Count a delivery attempt, with its error or as successful."""
        health = f"{_PREFIX}health:{target}"
        with self.redis.pipeline() as pipe:
            pipe.hincrby(f"{_PREFIX}outcomes", f"{target} {'failed' if error else 'delivered'}", 1)
            if error:
                pipe.hset(health, mapping={"last_error_at": time.time(), "last_error": error})
            else:
                pipe.hset(health, "last_success_at", str(time.time()))
            pipe.execute()

    def health(self, target: str) -> Health:
        """Return the health of a target."""
        stored = cast(dict[str, str], self.redis.hgetall(f"{_PREFIX}health:{target}"))
        times = {name: float(stored[name]) for name in ("last_success_at", "last_error_at") if name in stored}
        return Health(
            last_error=stored.get("last_error"),
            waiting=self.redis.zcard(f"{_PREFIX}due:{target}"),
            dead=self.redis.zcard(f"{_PREFIX}dead:{target}"),
            **times,
        )

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Return the attempts so far, by target and outcome."""
        stored = cast(dict[str, str], self.redis.hgetall(f"{_PREFIX}outcomes"))
        return {(name.split(" ")[0], name.split(" ")[1]): int(count) for name, count in stored.items()}

    def forget(self, target: str) -> None:
        """Delete all that is stored for a target."""
        ids = [*self._ids(f"{_PREFIX}due:{target}"), *self._ids(f"{_PREFIX}dead:{target}")]
        parts = ("known", "due", "dead", "health")
        self.redis.delete(
            *(f"{_PREFIX}{part}:{target}" for part in parts), *(f"{_PREFIX}delivery:{i}" for i in ids)
        )
        self.redis.hdel(f"{_PREFIX}outcomes", f"{target} failed", f"{target} delivered")

    def _ids(self, key: str) -> list[str]:
        return cast(list[str], self.redis.zrange(key, 0, -1))

    def _deliveries(self, key: str, ids: list[str]) -> list[Delivery]:
        if not ids:
            return []
        stored = cast(list[str | None], self.redis.mget([f"{_PREFIX}delivery:{i}" for i in ids]))
        if lost := list(compress(ids, [value is None for value in stored])):
            self.redis.zrem(key, *lost)
        return [Delivery(**json.loads(value)) for value in stored if value is not None]


def _dumps(value: Any) -> str:
    """Return JSON that is the same for the same value: `queue` compares it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
