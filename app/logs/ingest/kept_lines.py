"""Ingested lines that are kept after they were scored, in Redis: flagged ones for live views, and the newest.

Live views read a bounded stream. The newest lines are kept to calibrate on.

The keys of ingested lines in Redis, and how scripts count these lines.

    nextchar:ingest:models              a set: the models that have any of the keys below
    nextchar:ingest:<model>:lines       the stream: an entry per line that waits, with line and meta (JSON)
    nextchar:ingest:<model>:counts      a hash of counters since the first line: accepted, dropped, expired,
                                        failed, flagged, rejected
    nextchar:ingest:<model>:minute:<n>  a hash of the same counters, and scored, for one minute of Unix time
    nextchar:ingest:<model>:flagged     a stream of flagged lines for live views, which expires; entry ids
                                        are <number>-0
    nextchar:ingest:flagged_bytes       a sorted set: models by the memory of `flagged`
    nextchar:ingest:<model>:announced   a sorted set: entries of `lines` that are in `flagged` already
    nextchar:ingest:<model>:failed      a stream of lines that could not be scored (the newest)
    nextchar:ingest:<model>:recent      a list: the newest scored lines; expires
    nextchar:ingest:<model>:rules       a hash: what the flag rule knows of the lines of each source, and
                                        its newest events; and why more lines are rare than the rate
                                        explains; expires
    nextchar:ingest:<model>:judging     the lock of the process that judges lines
    nextchar:ingest:<model>:problem     JSON: why no line is scored now; expires
    nextchar:ingest:request:<hash>      the result of a request with an idempotency key; expires

`<model>` is the reference that the request used, `name` or `name@version`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from redis import Redis
from redis.exceptions import LockError, RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered
from nextchar.models.anomaly.flag_rule import Change, FlagRule

PREFIX = "nextchar:ingest:"
FLAGGED_BYTES = f"{PREFIX}flagged_bytes"

_MINUTE_TTL_S = 300

COUNT = f"""
local function count(model, field, by)
  redis.call('hincrby', '{PREFIX}' .. model .. ':counts', field, by)
  local minute = '{PREFIX}' .. model .. ':minute:' .. math.floor(redis.call('time')[1] / 60)
  redis.call('hincrby', minute, field, by)
  redis.call('expire', minute, {_MINUTE_TTL_S})
end
"""
"""Lua: `count(model, field, by)` adds to a counter of a model, and to that of the current minute."""


def lines_key(model: str) -> str:
    """Return the key of the stream of a model's lines."""
    return key(model, "lines")


def key(model: str, name: str) -> str:
    """Return the key of one kind of a model's data, such as `counts`."""
    return f"{PREFIX}{model}:{name}"


MAX_FLAGGED_BYTES = 16 << 20
"""Memory of the flagged lines of all models that live views can still read."""

TTL_S = 86_400
"""Time from the last flagged line of a model until all of its flagged lines are deleted."""

# ARGV: model, max bytes, then of each line its entry's id and the event as JSON.
_ANNOUNCE = (
    COUNT
    + f"""
local model, stream = ARGV[1], KEYS[1]
local announced, flagged = KEYS[2], KEYS[3]
local oldest = redis.call('xrange', stream, '-', '+', 'COUNT', 1)[1]
if oldest then -- what is older was deleted, so it is not delivered again
  redis.call('zremrangebyscore', announced, '-inf', '(' .. string.match(oldest[1], '^%d+'))
end
local added = 0
for i = 3, #ARGV, 2 do
  local entry = ARGV[i]
  if #redis.call('xrange', stream, entry, entry) == 1
    and redis.call('zadd', announced, 'NX', string.match(entry, '^%d+'), entry) == 1 then
    count(model, 'flagged', 1)
    local counts = '{PREFIX}' .. model .. ':counts'
    -- Of a restored backup the count may be behind the stream: they were copied at different moments.
    local last = redis.call('xrevrange', flagged, '+', '-', 'COUNT', 1)[1] or {{'0-0'}}
    local number = tonumber(redis.call('hget', counts, 'flagged'))
    number = math.max(number, string.match(last[1], '^%d+') + 1)
    redis.call('hset', counts, 'flagged', number)
    redis.call('xadd', flagged, number .. '-0', 'entry', entry, 'event', ARGV[i + 1])
    added = added + 1
  end
end
local function measure(of)
  local bytes = redis.call('memory', 'usage', '{PREFIX}' .. of .. ':flagged')
  redis.call('zadd', '{FLAGGED_BYTES}', bytes or 0, of)
  if not bytes then redis.call('zrem', '{FLAGGED_BYTES}', of) end
end
local function total()
  local sum, sizes = 0, redis.call('zrange', '{FLAGGED_BYTES}', 0, -1, 'withscores')
  for i = 2, #sizes, 2 do sum = sum + sizes[i] end
  return sum
end
measure(model)
redis.call('expire', flagged, {TTL_S})
while total() > tonumber(ARGV[2]) do -- each time an eighth of the model that has the most
  local largest = redis.call('zrevrange', '{FLAGGED_BYTES}', 0, 0)[1]
  local stream = '{PREFIX}' .. largest .. ':flagged'
  local kept = math.floor(redis.call('xlen', stream) * 7 / 8)
  if kept > 0 then redis.call('xtrim', stream, 'MAXLEN', kept) else redis.call('del', stream) end
  measure(largest)
end
return added
"""
)

_MAX_POLLED = 500

MAX_RECENT_LINES = 1_000
"""Lines that are kept of each model."""

MAX_RECENT_BYTES = 4_000
"""Longer lines are not kept."""

MAX_RULES = 1_000
"""Sources of one model, times calibrations for their lines, for which the flag rule is kept."""

NEIGHBORS = 3
"""Events before and after a flagged one that are kept."""

_NEIGHBORS = " events"  # after the name of a source
_CHANGE = " change"
_MAX_NEIGHBOR_CHARACTERS = 300
_KEEP_S = 7 * 86_400
_JUDGING_S = 30  # after which the lock of a dead process expires
_WAIT_S = 1  # for that of another one


class FlaggedLines:
    """The flagged lines of each model on one Redis, on a connection that does not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, model: str, events: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Add flagged lines, as (entry, event), to those that live views show, each once.

        Call it before the entries are acknowledged: a line that is delivered again is not added again. Return
        how many were added.
        """
        if not events:
            return 0
        pairs = [part for entry, event in events for part in (entry, _dumps(event))]
        arguments: list[Any] = [lines_key(model), key(model, "announced"), key(model, "flagged"), model]
        arguments += [MAX_FLAGGED_BYTES, *pairs]
        return int(cast(Any, self._redis).eval(_ANNOUNCE, 3, *arguments))

    def read(self, model: str, *, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """Return flagged lines with numbers above `after`, as (number, event), oldest first."""
        entries = cast(Any, self._redis.xrange(key(model, "flagged"), min=f"({after}-0", count=limit))
        return [
            (
                int(entry.partition(b"-")[0]),
                json.loads(fields[b"event"]) | {"entry": fields[b"entry"].decode()},
            )
            for entry, fields in entries
        ]

    def last_number(self, model: str) -> int:
        """Return the number of the newest flagged line, 0 if there is none."""
        newest = cast(Any, self._redis.xrevrange(key(model, "flagged"), count=1))
        return int(newest[0][0].partition(b"-")[0]) if newest else 0

    def bytes(self) -> dict[str, int]:
        """Return the memory of the flagged lines of each model, measured at its last one."""
        sizes = cast(Any, self._redis.zrange(FLAGGED_BYTES, 0, -1, withscores=True))
        return {model.decode(): int(size) for model, size in sizes}


def _dumps(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")  # not six bytes for "→"


class FlaggedSource:
    """The flagged lines of one model. They have no end; their numbers start again if Redis loses its data."""

    def __init__(self, lines: FlaggedLines, model: str) -> None:
        self._lines, self._model = lines, model

    def last_number(self) -> int:
        """Return the number of the newest flagged line, 0 if there is none."""
        return self._lines.last_number(self._model)

    def read(self, after: int, limit: int) -> list[Numbered]:
        """Return up to `limit` flagged lines with numbers above `after`, oldest first."""
        return self._lines.read(self._model, after=after, limit=limit)

    def poll(self, after: int) -> NewEvents:
        """Return flagged lines with numbers above `after`; Redis keeps more than those of one poll.

        Raises RedisError: their numbers have started again; clients that connect again get all of them.
        """
        events = self.read(after, _MAX_POLLED)
        if not events and self.last_number() < after:
            raise RedisError("the flagged lines are lost, and their numbers start again")
        return NewEvents(events)


class FlaggedFeeds(Feeds):
    """The flagged lines of models that are followed."""


class RecentLines:
    """The newest scored lines of each model on one Redis, on a connection that does not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, model: str, lines: Sequence[bytes]) -> None:
        """Keep scored lines in place of older ones."""
        kept = [line for line in lines if len(line) <= MAX_RECENT_BYTES]
        if not kept:
            return
        recent = key(model, "recent")
        with self._redis.pipeline() as pipe:
            pipe.rpush(recent, *kept)
            pipe.ltrim(recent, -MAX_RECENT_LINES, -1)
            pipe.expire(recent, _KEEP_S)
            pipe.execute()

    def read(self, model: str) -> list[bytes]:
        """Return the newest scored lines, the oldest first."""
        return cast(list[bytes], self._redis.lrange(key(model, "recent"), 0, -1))

    def forget(self, model: str) -> None:
        """Forget the recent lines, as after calibrating on them."""
        self._redis.delete(key(model, "recent"))


class Neighbors:
    """The newest events of a source, and its flagged events that wait for those after them.

    Attributes:
        changed: by the ids of their alerts, flagged events (`line`) with those `before` and `after` so far.
    """

    def __init__(self, data: bytes | None) -> None:
        """Go on from what `dump` returned; None: from nothing."""
        self._newest, self._open = json.loads(data) if data else ([], {})
        self.changed: dict[str, dict[str, Any]] = {}

    def add(self, event: str, alert_id: str | None) -> None:
        """Take the next event, and the id of its alert if it is flagged."""
        event = event[:_MAX_NEIGHBOR_CHARACTERS]
        for other, around in list(self._open.items()):
            around["after"].append(event)
            self.changed[other] = around
            if len(around["after"]) == NEIGHBORS:
                del self._open[other]
        if alert_id:
            around = {"before": self._newest, "line": event, "after": []}
            self._open[alert_id] = self.changed[alert_id] = around
        self._newest = [*self._newest, event][-NEIGHBORS:]

    def dump(self) -> bytes:
        """Return what is to be known of later events."""
        return json.dumps([self._newest, self._open]).encode()


class FlagRules:
    """What the flag rule knows of each source's lines; on a connection that does not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @contextmanager
    def lock(self, model: str) -> Iterator[None]:
        """Hold the lock for judging lines of a model: one process judges them at a time, in their order.

        Without it, if another process holds it for too long: some lines are then flagged once more.
        """
        lock = self._redis.lock(key(model, "judging"), timeout=_JUDGING_S, blocking_timeout=_WAIT_S)
        is_held = lock.acquire()
        try:
            yield
        finally:
            if is_held:
                with suppress(LockError):  # it has expired
                    lock.release()

    def read(self, model: str, name: str) -> tuple[bytes | None, Neighbors]:
        """Return the rule of the lines of this name, None if there is none, and their newest events."""
        rule, newest = cast(Any, self._redis.hmget(key(model, "rules"), [name, name + _NEIGHBORS]))
        return rule, Neighbors(newest)

    def write(self, model: str, known: Mapping[str, tuple[FlagRule, Neighbors]], name: str) -> None:
        """Store what is known of lines, and the change of those of which most are rare; see `change`.

        Of more than MAX_RULES names all are forgotten: senders may invent sources. `name` is the model's.
        """
        if not known:
            return
        stored = key(model, "rules")
        if self._redis.hlen(stored) // 2 > MAX_RULES:  # each has its newest events, too
            self._redis.delete(stored)
        largest = max((rule for rule, _ in known.values()), key=lambda rule: rule.rare)
        change = largest.change(lambda alert: alert.alert_id(name))
        fields: dict[str, Any] = {_CHANGE: json.dumps(change and change.model_dump())}
        for one, (rule, neighbors) in known.items():
            fields |= {one: rule.dump(), one + _NEIGHBORS: neighbors.dump()}
        self._redis.hset(stored, mapping=cast(Any, fields))
        self._redis.expire(stored, _KEEP_S)

    def change(self, model: str) -> Change | None:
        """Return why more of the newest lines are rare than the rate explains; None if they are not."""
        found = cast(bytes | None, self._redis.hget(key(model, "rules"), _CHANGE))
        return Change(**change) if found and (change := json.loads(found)) else None

    def forget(self, model: str) -> None:
        """Forget what is known of the lines of a model, as after a new calibration."""
        self._redis.delete(key(model, "rules"))
