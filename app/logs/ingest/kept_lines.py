"""Ingested lines that are kept after they were scored, in Redis: flagged ones for live views, and the newest.

Live views read a bounded stream. The newest lines are kept to notice drift and to calibrate on.

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
    nextchar:ingest:<model>:unusual     a list: of each its calibration, and 1 if it was unusual; expires
    nextchar:ingest:<model>:problem     JSON: why no line is scored now; expires
    nextchar:ingest:request:<hash>      the result of a request with an idempotency key; expires

`<model>` is the reference that the request used, `name` or `name@version`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered

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

_RECENT_TTL_S = 7 * 86_400


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
                pipe.expire(name, _RECENT_TTL_S)
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
