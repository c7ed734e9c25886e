"""Messages to notification targets that wait, and the state last sent to each target: in Redis.

    nextchar:notifications:lease                 the token of the process that sends; expires unless renewed
    nextchar:notifications:known:<target>        a hash: alert id -> JSON of the state last sent to the target
    nextchar:notifications:delivery:<id>         JSON: a message to a webhook
    nextchar:notifications:due:<target>          a sorted set: deliveries by the time of the next attempt
    nextchar:notifications:dead:<target>         a sorted set: deliveries that were given up, by time
    nextchar:notifications:owners:<target>       a hash: delivery id -> whose share of the queue it takes
    nextchar:notifications:dropped:<target>      a hash: model -> messages given up, as too many waited, since
                                                 the last summary; "" -> since when
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
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from typing import Any, cast

from redis import Redis

from nextchar.models.errors import NotFound
from nextchar.store import lease
from nextchar.store.ids import is_id, new_id

LEASE_S = 60
"""A process that has not renewed its lease for this long lets another one send."""

RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Delays before the next attempt, as Standard Webhooks recommends; after the last one a delivery is dead."""

MAX_WAITING = 1_000
"""Deliveries that wait for one target; above it, the newest of the owner with the most is dead at once."""

MAX_DEAD = 1_000
"""Dead deliveries kept for one target; above it, the oldest of the owner that has the most is deleted."""

_PREFIX = "nextchar:notifications:"
_RECORDS = f"{_PREFIX}records"

_SHARES = """
local function largest(set, owners) -- the ids of the owner with the most in a set, in its order
  local ids, of, most = redis.call('zrange', set, 0, -1), {}, nil
  for i, owner in ipairs(redis.call('hmget', owners, unpack(ids))) do
    owner = owner or ''
    of[owner] = of[owner] or {}
    table.insert(of[owner], ids[i])
    if not most or #of[owner] >= #of[most] then most = owner end -- with equally many: that of the newest
  end
  return of[most]
end
local function bury(dead, owners, prefix, id, delivery, now, max_dead)
  redis.call('set', prefix .. id, delivery)
  redis.call('zadd', dead, now, id)
  while redis.call('zcard', dead) > tonumber(max_dead) do
    local oldest = largest(dead, owners)[1]
    redis.call('zrem', dead, oldest)
    redis.call('del', prefix .. oldest)
    redis.call('hdel', owners, oldest)
  end
end
"""
# KEYS: sent states, due, dead, owners, dropped; ARGV: alert id (none: of a record), the state sent before,
# the new state, delivery id, its JSON, its owner, why one is dropped, now, limits, prefix of deliveries.
_QUEUE = (
    _SHARES
    + """
local known, due, dead, owners, dropped = unpack(KEYS)
local alert, before, after, id, delivery, owner, why, now, max_waiting, max_dead, prefix = unpack(ARGV)
if alert == '' then
  if redis.call('exists', prefix .. id) == 1 then return 0 end
elseif (redis.call('hget', known, alert) or '') ~= before then return 0
elseif after == '' then redis.call('hdel', known, alert) else redis.call('hset', known, alert, after) end
redis.call('set', prefix .. id, delivery)
redis.call('hset', owners, id, owner)
redis.call('zadd', due, now, id)
while redis.call('zcard', due) > tonumber(max_waiting) do
  local ids = largest(due, owners)
  local last = ids[#ids]
  redis.call('zrem', due, last)
  local stored = cjson.decode(redis.call('get', prefix .. last) or '{}')
  stored.last_error = why
  local model = stored.model or ''
  redis.call('hincrby', dropped, model == '' and '?' or model, 1)
  redis.call('hsetnx', dropped, '', now) -- since when
  bury(dead, owners, prefix, last, cjson.encode(stored), now, max_dead)
end
return 1
"""
)
# KEYS: due, dead, owners; ARGV: delivery id, its JSON, now, max_dead, prefix.
_MOVE_TO_DEAD = (
    _SHARES
    + """
if redis.call('zrem', KEYS[1], ARGV[1]) == 0 then return 0 end
bury(KEYS[2], KEYS[3], ARGV[5], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
"""
)


@dataclass(frozen=True)
class Delivery:
    """A message to a webhook. Times are Unix seconds.

    Attributes:
        id: sent with each attempt, so that a receiver can drop duplicates. body: its JSON. attempts: failed
        ones so far. last_error: why the last one failed. model: the model that it is about.
    """

    id: str
    target: str
    body: str
    created_at: float
    attempts: int = 0
    next_at: float | None = None
    last_error: str | None = None
    model: str = ""


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

    def queue(
        self,
        target: str,
        alert_id: str,
        *,
        before: Any,
        after: Any,
        body: str,
        now: float,
        model: str = "",
        owner: str = "",
    ) -> bool:
        """Queue a message that changes the state sent to a target of an alert from `before` to `after`.

        None: no state. `owner` is whose share of the queue it takes. Return False if another state was sent
        meanwhile.
        """
        values = ("" if before is None else _dumps(before), "" if after is None else _dumps(after))
        delivery = Delivery(new_id("msg"), target, body, now, model=model)
        return self._queue(delivery, owner, alert_id, *values)

    def queue_event(self, target: str, name: str, body: str, *, now: float, model: str = "") -> bool:
        """Queue a message about an event, unless it is queued already; return whether it was queued.

        Its id is the same each time.
        """
        digest = hashlib.sha256(f"{target}\n{name}".encode()).hexdigest()[:32]
        return self._queue(Delivery(f"msg_{digest}", target, body, now, model=model), f"model {model}")

    def dropped(self, target: str) -> tuple[float, dict[str, int]]:
        """Return how many messages about each model were given up as too many waited, and since when.

        None are returned as long as there is no room for a message about them.
        """
        dropped = cast(dict[str, str], self.redis.hgetall(f"{_PREFIX}dropped:{target}"))
        if not dropped or self.redis.zcard(f"{_PREFIX}due:{target}") >= MAX_WAITING:
            return 0.0, {}
        since = float(dropped.pop(""))
        return since, {model: int(count) for model, count in sorted(dropped.items())}

    def forget_dropped(self, target: str) -> None:
        """Forget what `dropped` has returned: a message about it is queued."""
        self.redis.delete(f"{_PREFIX}dropped:{target}")

    def _queue(
        self, delivery: Delivery, owner: str, alert_id: str = "", before: str = "", after: str = ""
    ) -> bool:
        parts = ("known", "due", "dead", "owners", "dropped")
        keys = [f"{_PREFIX}{part}:{delivery.target}" for part in parts]
        queued = self.redis.eval(
            _QUEUE,
            len(keys),
            *keys,
            alert_id,
            before,
            after,
            delivery.id,
            _dumps(asdict(delivery)),
            owner,
            f"{MAX_WAITING:,} other messages wait for this target",
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
        """Return the deliveries whose next attempt is due: owners in turns, the one due longest first."""
        ids = cast(list[str], self.redis.zrangebyscore(f"{_PREFIX}due:{target}", "-inf", now))
        owners = cast(list[str], self.redis.hmget(f"{_PREFIX}owners:{target}", ids)) if ids else []
        places: Counter[str] = Counter()
        turns = dict[str, int]()
        for delivery_id, owner in zip(ids, owners, strict=True):
            turns[delivery_id] = places[owner]
            places[owner] += 1
        return self._deliveries(f"{_PREFIX}due:{target}", sorted(ids, key=turns.__getitem__)[:limit])

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
            pipe.hdel(f"{_PREFIX}owners:{delivery.target}", delivery.id)
            pipe.execute()
        self.count(delivery.target, None)

    def failed(self, delivery: Delivery, error: str, *, now: float) -> None:
        """Schedule the next attempt of a delivery, or give it up after the last one."""
        failed = replace(delivery, attempts=delivery.attempts + 1, last_error=error, next_at=None)
        due, dead, owners = (f"{_PREFIX}{part}:{delivery.target}" for part in ("due", "dead", "owners"))
        if failed.attempts > len(RETRY_DELAYS_S):
            stored = _dumps(asdict(failed))
            self.redis.eval(
                _MOVE_TO_DEAD,
                3,
                due,
                dead,
                owners,
                delivery.id,
                stored,
                str(now),
                MAX_DEAD,
                f"{_PREFIX}delivery:",
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
        parts = ("known", "due", "dead", "owners", "dropped", "health")
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
