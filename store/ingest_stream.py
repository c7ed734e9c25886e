"""Lines that agents have sent and that wait to be scored: a Redis stream per model, read by a consumer group.

    nextchar:ingest:models              a set: the models that have any of the keys below
    nextchar:ingest:<model>:lines       the stream: an entry per line that waits, with line and meta (JSON)
    nextchar:ingest:<model>:counts      a hash of counters since the first line: accepted, dropped, expired,
                                        failed, flagged, rejected
    nextchar:ingest:<model>:minute:<n>  a hash of the same counters, and scored, for one minute of Unix time
    nextchar:ingest:<model>:flagged     a stream of flagged lines for live views; entry ids are <number>-0
    nextchar:ingest:<model>:announced   a sorted set: entries of `lines` that are in `flagged` already
    nextchar:ingest:<model>:failed      a stream of lines that could not be scored (the newest)
    nextchar:ingest:<model>:recent      a list: the newest scored lines; expires
    nextchar:ingest:<model>:unusual     a list: of each its calibration, and 1 if it was unusual; expires
    nextchar:ingest:<model>:problem     JSON: why no line is scored now; expires
    nextchar:ingest:request:<hash>      the answer to a request with an idempotency key; expires

`<model>` is the reference that the request used, `name` or `name@version`. A request's lines are added by one
script, so that all or none are accepted, and `accept` returns when they are in the append-only file on disk.
An entry is deleted by the same script that records its result (`store.alerts`, or `acknowledge` for lines
that are not flagged); until then it is delivered again if its consumer dies. So each line is recorded once.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import ResponseError

from models.errors import Busy, Conflict, TooLarge, Unavailable

GROUP = "scoring"
"""The consumer group."""

MAX_FLAGGED_KEPT = 5_000
"""Flagged lines that a live view can still read."""

MAX_FAILED_KEPT = 1_000
"""Lines that could not be scored and are kept for inspection."""

MAX_RECENT_LINES = 1_000
"""The newest scored lines, kept to notice drift and to calibrate on."""

MAX_RECENT_BYTES = 4_000
"""Longer lines are not kept."""

MAX_DELIVERIES = 5
"""A line that was delivered this often and never finished is moved to the failed lines."""

SUSPECT_DELIVERIES = 2
"""A line that was delivered this often is delivered alone, so that it cannot fail its neighbors."""

FSYNC_WAIT_S = 5.0
"""How long `accept` waits until the lines are on disk. The append-only file is synced every second."""

RETRY_AFTER_S = 5.0
"""When an agent may send again after a refusal."""

_PREFIX = "nextchar:ingest:"
_MODELS = f"{_PREFIX}models"
_MINUTE_TTL_S = 300
_PROBLEM_TTL_S = 120
_RECENT_TTL_S = 7 * 86_400
_CONSUMER_TTL_MS = 3_600_000
_LINE_BYTES = 60  # about what an entry takes in addition to its fields

_COUNT = f"""
local function count(model, field, by)
  redis.call('hincrby', '{_PREFIX}' .. model .. ':counts', field, by)
  local minute = '{_PREFIX}' .. model .. ':minute:' .. math.floor(redis.call('time')[1] / 60)
  redis.call('hincrby', minute, field, by)
  redis.call('expire', minute, {_MINUTE_TTL_S})
end
"""
# ARGV: request key or '', digest of its body, its TTL, max lines, max bytes; then for each model its name,
# the number of rejected lines, the number of lines, and of each line its bytes and its meta.
_ACCEPT = (
    _COUNT
    + f"""
local request, digest, ttl_s, max_lines, max_bytes = unpack(ARGV, 1, 5)
if request ~= '' then
  local before = redis.call('get', request)
  if before then
    redis.call('expire', request, ttl_s) -- a write, for WAITAOF to wait for what was written before it
    return {{'repeated', before}}
  end
end
local bytes, total = 0, 0
for _, model in ipairs(redis.call('smembers', KEYS[1])) do
  bytes = bytes + (redis.call('memory', 'usage', '{_PREFIX}' .. model .. ':lines') or 0)
end
local at = 6
while at <= #ARGV do
  local model, lines = ARGV[at], tonumber(ARGV[at + 2])
  local waiting = redis.call('xlen', '{_PREFIX}' .. model .. ':lines')
  if waiting + lines > tonumber(max_lines) then return {{'lines', model, waiting}} end
  for i = at + 3, at + 2 + 2 * lines do bytes = bytes + #ARGV[i] + {_LINE_BYTES // 2} end
  at = at + 3 + 2 * lines
end
if bytes > tonumber(max_bytes) then return {{'bytes', '', bytes}} end
at = 6
while at <= #ARGV do
  local model, lines = ARGV[at], tonumber(ARGV[at + 2])
  local stream = '{_PREFIX}' .. model .. ':lines'
  redis.call('sadd', KEYS[1], model)
  if redis.call('exists', stream) == 0 then
    redis.call('xgroup', 'create', stream, '{GROUP}', '0', 'mkstream')
  end
  for i = at + 3, at + 2 + 2 * lines, 2 do
    redis.call('xadd', stream, '*', 'line', ARGV[i], 'meta', ARGV[i + 1])
  end
  if lines > 0 then count(model, 'accepted', lines) end
  if tonumber(ARGV[at + 1]) > 0 then count(model, 'rejected', ARGV[at + 1]) end
  total = total + lines
  at = at + 3 + 2 * lines
end
if request ~= '' then redis.call('set', request, digest .. ' ' .. total, 'EX', ttl_s) end
return {{'accepted', total}}
"""
)
# ARGV: model, max kept, then of each line its entry's id and the event as JSON.
_ANNOUNCE = (
    _COUNT
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
    local number = redis.call('hget', '{_PREFIX}' .. model .. ':counts', 'flagged')
    redis.call('xadd', flagged, 'MAXLEN', '~', ARGV[2], number .. '-0', 'entry', entry, 'event', ARGV[i + 1])
    added = added + 1
  end
end
return added
"""
)
_ACKNOWLEDGE = (
    _COUNT
    + """
local done = 0
for i = 3, #ARGV do
  if redis.call('xack', KEYS[1], ARGV[2], ARGV[i]) == 1 then
    done = done + redis.call('xdel', KEYS[1], ARGV[i])
  end
end
if done > 0 then count(ARGV[1], 'scored', done) end
return done
"""
)
# ARGV: model, group, max kept, reason, ids.
_FAIL = (
    _COUNT
    + """
local failed = 0
for i = 5, #ARGV do
  local entry = redis.call('xrange', KEYS[1], ARGV[i], ARGV[i])[1]
  if redis.call('xack', KEYS[1], ARGV[2], ARGV[i]) == 1 and entry then
    redis.call('xadd', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'reason', ARGV[4], 'entry', ARGV[i],
      unpack(entry[2]))
    redis.call('xdel', KEYS[1], ARGV[i])
    failed = failed + 1
  end
end
if failed > 0 then count(ARGV[1], 'failed', failed) end
return failed
"""
)
_DROP = (
    _COUNT
    + f"""
local waiting = redis.call('xlen', KEYS[1])
if waiting > 0 then
  redis.call('del', KEYS[1])
  redis.call('xgroup', 'create', KEYS[1], '{GROUP}', '0', 'mkstream')
  count(ARGV[1], 'dropped', waiting)
end
redis.call('del', KEYS[2], KEYS[3])
return waiting
"""
)
_FORGET = f"""
if redis.call('xlen', KEYS[1]) > 0 then return 0 end
redis.call('del', unpack(KEYS))
return redis.call('srem', '{_MODELS}', ARGV[1])
"""
_EXPIRE = (
    _COUNT
    + """
local removed = redis.call('xtrim', KEYS[1], 'MINID', ARGV[2])
if removed > 0 then count(ARGV[1], 'expired', removed) end
return removed
"""
)
_REMOVE_IDLE_CONSUMERS = """
local removed = 0
for _, fields in ipairs(redis.call('xinfo', 'consumers', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    removed = removed + 1
    redis.call('xgroup', 'delconsumer', KEYS[1], ARGV[1], consumer['name'])
  end
end
return removed
"""


@dataclass(frozen=True)
class LineMeta:
    """Metadata of a line.

    Attributes:
        time: of the line, in Unix seconds, if the agent sent it. source: where the line comes from, such as a
        host. calibration: the one to use if it exists. false_alarms: the rate; None: the calibration's
        default. is_rolling: whether the calibration follows the line.
    """

    time: float | None = None
    source: str | None = None
    calibration: str | None = None
    false_alarms: float | None = None
    is_rolling: bool = False

    def dump(self) -> str:
        """Return it as JSON."""
        fields = {
            "t": self.time,
            "s": self.source,
            "c": self.calibration,
            "f": self.false_alarms,
            "r": self.is_rolling or None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    @classmethod
    def load(cls, data: bytes) -> "LineMeta":
        """Read what `dump` returned."""
        fields = json.loads(data)
        return cls(fields.get("t"), fields.get("s"), fields.get("c"), fields.get("f"), bool(fields.get("r")))


@dataclass(frozen=True)
class NewLine:
    """A line to be accepted: its bytes, without a newline, and what is known of it."""

    data: bytes
    meta: LineMeta


@dataclass(frozen=True)
class Batch:
    """The lines of one request for one model, and how many others of it were rejected."""

    model: str
    lines: Sequence[NewLine]
    rejected: int = 0


@dataclass(frozen=True)
class Request:
    """The identity of a request that may be sent again: a hash of its key, and one of its body."""

    key: str
    body: str


@dataclass(frozen=True)
class Accepted:
    """The result of `accept`: the number of lines; `is_repeated` if an earlier request brought them."""

    lines: int
    is_repeated: bool = False


@dataclass(frozen=True)
class Entry:
    """A line that was delivered to a consumer."""

    id: str
    data: bytes
    meta: LineMeta

    @property
    def received_at(self) -> float:
        """When it was accepted, in Unix seconds."""
        return int(self.id.partition("-")[0]) / 1000


@dataclass(frozen=True)
class Consumer:
    """A process that scores lines: how many it has now, and for how long it has not asked for more."""

    name: str
    pending: int
    idle_s: float


@dataclass(frozen=True)
class RecentLine:
    """A line that was scored; `calibration` says with which, `is_unusual` whether it was of the top tenth."""

    data: bytes
    calibration: str
    is_unusual: bool


@dataclass(frozen=True)
class IngestLimits:
    """Limits on waiting lines per model and on their memory in Redis for all models together."""

    max_lines: int = 200_000
    max_bytes: int = 64 << 20


Counter = Literal["accepted", "dropped", "expired", "failed", "flagged", "rejected", "scored"]

_COUNTERS: tuple[Counter, ...] = ("accepted", "dropped", "expired", "failed", "flagged", "rejected")


@dataclass(frozen=True)
class IngestStatus:
    """The lines of one model."""

    counts: Mapping[Counter, int]  # since the first line
    per_minute: Mapping[Counter, float]  # over the last minute
    waiting: int
    bytes: int
    oldest_age_s: float | None
    consumers: Sequence[Consumer]
    problem: Mapping[str, str] | None


class IngestStreams:
    """The ingest streams on one Redis, on a connection that does not decode responses.

    The connection must not repeat commands by itself, since a repeated script would add the lines again, and
    its timeout must exceed FSYNC_WAIT_S.
    """

    def __init__(self, redis: Redis, limits: IngestLimits | None = None, *, repeat_s: int = 600) -> None:
        """`repeat_s` is how long an idempotency key is remembered."""
        self._redis = redis
        self._limits = limits or IngestLimits()
        self._repeat_s = repeat_s

    def accept(self, batches: Sequence[Batch], request: Request | None = None) -> Accepted:
        """Add lines, all or none, and wait until they are on disk if Redis keeps an append-only file.

        Raises:
            Busy: too many lines or bytes wait (code `ingest_full`).
            TooLarge: a batch has more lines than may wait.
            Conflict: the request's key came with another body (code `idempotency_key_reused`).
            Unavailable: Redis did not sync the lines in time. They may be scored: send the request again with
                the same key, and it counts once.
            redis.exceptions.RedisError: Redis does not answer or refuses writes.
        """
        for batch in batches:
            self._check_size(batch)
        key = f"{_PREFIX}request:{request.key}" if request else ""
        arguments: list[Any] = [key, request.body if request else "", self._repeat_s]
        arguments += [self._limits.max_lines, self._limits.max_bytes]
        for batch in batches:
            arguments += [batch.model, batch.rejected, len(batch.lines)]
            for line in batch.lines:
                arguments += (line.data, line.meta.dump())
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.eval(_ACCEPT, 1, _MODELS, *arguments)
            cast(Any, pipe).execute_command(
                "WAITAOF", 1, 0, int(FSYNC_WAIT_S * 1000)
            )  # of this connection's writes
            result, synced = pipe.execute(raise_on_error=False)
        if isinstance(result, Exception):
            raise result
        accepted = self._accepted(result, request)
        if not isinstance(synced, ResponseError):  # an old server, or one without an append-only file
            if isinstance(synced, Exception):
                raise synced
            if synced[0] < 1:
                raise Unavailable(
                    f"Redis did not write the lines to disk within {FSYNC_WAIT_S:g} s; send them again, with"
                    " the same Idempotency-Key",
                    code="ingest_not_durable",
                )
        return accepted

    def _check_size(self, batch: Batch) -> None:
        size = sum(len(line.data) for line in batch.lines)
        if len(batch.lines) > self._limits.max_lines or size > self._limits.max_bytes:
            raise TooLarge(
                f"a request of {len(batch.lines):,} lines and {size:,} bytes exceeds what may wait in all,"
                f" {self._limits.max_lines:,} lines and {self._limits.max_bytes:,} bytes; send less at once",
                code="batch_too_large",
                param="body",
            )

    def _accepted(self, result: list[Any], request: Request | None) -> Accepted:
        match result:
            case [b"accepted", int(lines)]:
                return Accepted(lines)
            case [b"repeated", bytes(before)]:
                digest, _, count = before.decode().rpartition(" ")
                assert request is not None
                if digest != request.body:
                    raise Conflict(
                        "this Idempotency-Key came with another body; use a new key for each batch",
                        code="idempotency_key_reused",
                        param="Idempotency-Key",
                    )
                return Accepted(int(count), is_repeated=True)
            case [b"lines", bytes(model), int(waiting)]:
                what = f"{waiting:,} lines wait to be scored by {model.decode()}"
            case [_, _, int(used)]:
                what = f"the lines that wait, with these, take {used:,} bytes"
            case _:
                raise AssertionError(result)
        raise Busy(f"{what}; send again later", retry_after_s=RETRY_AFTER_S, code="ingest_full")

    def models(self) -> list[str]:
        """Return the models that lines were sent to, by name."""
        return sorted(name.decode() for name in cast(set[bytes], self._redis.smembers(_MODELS)))

    def waiting(self, model: str) -> int:
        """Return how many lines wait, those that are being scored included."""
        return self._redis.xlen(lines_key(model))

    def batch_lines(self, model: str, *, max_lines: int, max_bytes: int) -> int:
        """Return how many lines take about `max_bytes`, by the average of those that wait; at least 1."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(lines_key(model))
            pipe.memory_usage(lines_key(model))
            waiting, size = pipe.execute()
        return max(1, min(max_lines, max_bytes * int(waiting) // max(1, int(size or 0))))

    def read(self, model: str, consumer: str, *, max_lines: int) -> list[Entry]:
        """Deliver new lines to a consumer."""
        try:
            answer = cast(
                Any, self._redis.xreadgroup(GROUP, consumer, {lines_key(model): ">"}, count=max_lines)
            )
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):  # the stream is gone, for example after FLUSHALL
                return []
            raise
        streams = answer.items() if isinstance(answer, dict) else answer
        return [_entry(one) for _, entries in streams or () for one in _flat(entries)]

    def claim(self, model: str, consumer: str, *, idle_s: float, max_lines: int) -> list[Entry]:
        """Deliver lines again that a consumer has had for `idle_s` without finishing them.

        Lines that were delivered MAX_DELIVERIES times are moved to the failed ones, and those that were
        delivered SUSPECT_DELIVERIES times are delivered one at a time.
        """
        key, idle_ms = lines_key(model), int(idle_s * 1000)
        try:
            pending = cast(
                list[dict[str, Any]],
                self._redis.xpending_range(key, GROUP, "-", "+", max_lines, idle=idle_ms),
            )
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return []
            raise
        deliveries = {one["message_id"]: one["times_delivered"] for one in pending}
        if lost := [entry for entry, times in deliveries.items() if times >= MAX_DELIVERIES]:
            self.fail(model, [entry.decode() for entry in lost], "scoring it did not end several times")
        ids = [entry for entry in deliveries if entry not in lost]
        fresh = [entry for entry in ids if deliveries[entry] < SUSPECT_DELIVERIES]
        ids = fresh or ids[:1]
        if not ids:
            return []
        claimed = cast(Any, self._redis.xclaim(key, GROUP, consumer, idle_ms, ids))
        return [_entry(one) for one in claimed if one[1]]

    def keep(self, model: str, consumer: str, ids: Sequence[str]) -> None:
        """Note that a consumer still works on lines, so that no other claims them."""
        cast(Any, self._redis).xclaim(lines_key(model), GROUP, consumer, 0, list(ids), justid=True)

    def acknowledge(self, model: str, ids: Sequence[str]) -> int:
        """Finish lines that are not flagged: delete them. Return how many others had not finished before."""
        return int(cast(int, self._redis.eval(_ACKNOWLEDGE, 1, lines_key(model), model, GROUP, *ids)))

    def announce(self, model: str, events: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Add flagged lines, as (entry, event), to those that live views show, each once.

        Call it before the entries are acknowledged: a line that is delivered again is not added again. Return
        how many were added.
        """
        if not events:
            return 0
        pairs = [part for entry, event in events for part in (entry, json.dumps(event))]
        arguments: list[Any] = [lines_key(model), _key(model, "announced"), _key(model, "flagged"), model]
        arguments += [MAX_FLAGGED_KEPT, *pairs]
        return int(cast(Any, self._redis).eval(_ANNOUNCE, 3, *arguments))

    def flagged(self, model: str, *, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """Return flagged lines with numbers above `after`, as (number, event), oldest first."""
        entries = cast(Any, self._redis.xrange(_key(model, "flagged"), min=f"({after}-0", count=limit))
        return [
            (
                int(entry.partition(b"-")[0]),
                json.loads(fields[b"event"]) | {"entry": fields[b"entry"].decode()},
            )
            for entry, fields in entries
        ]

    def last_flagged(self, model: str) -> int:
        """Return the number of the newest flagged line, 0 if there is none."""
        newest = cast(Any, self._redis.xrevrange(_key(model, "flagged"), count=1))
        return int(newest[0][0].partition(b"-")[0]) if newest else 0

    def fail(self, model: str, ids: Sequence[str], reason: str) -> int:
        """Move lines that cannot be scored to the failed ones, of which the newest are kept."""
        keys = (lines_key(model), _key(model, "failed"))
        arguments: list[Any] = [model, GROUP, MAX_FAILED_KEPT, reason[:200], *ids]
        return int(cast(int, self._redis.eval(_FAIL, 2, *keys, *arguments)))

    def drop(self, model: str) -> int:
        """Delete the lines that wait, the failed and the recent ones; return how many waited."""
        self.forget_recent(model)
        keys = (lines_key(model), _key(model, "failed"), _key(model, "announced"))
        return int(cast(int, self._redis.eval(_DROP, 3, *keys, model)))

    def forget(self, model: str) -> bool:
        """Delete everything of a model that is gone, unless lines wait; return whether it was deleted."""
        names = ("failed", "announced", "flagged", "counts", "problem", "recent", "unusual")
        keys = (lines_key(model), *(_key(model, name) for name in names))
        return bool(self._redis.eval(_FORGET, len(keys), *keys, model))

    def expire(self, model: str, *, before: float) -> int:
        """Delete lines that were accepted before a time, in Unix seconds; return how many."""
        return int(cast(int, self._redis.eval(_EXPIRE, 1, lines_key(model), model, int(before * 1000))))

    def remove_idle_consumers(self, model: str) -> None:
        """Forget consumers that have nothing and have not asked for an hour: their processes have ended."""
        try:
            self._redis.eval(_REMOVE_IDLE_CONSUMERS, 1, lines_key(model), GROUP, _CONSUMER_TTL_MS)
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise

    def set_problem(self, model: str, problem: Mapping[str, str] | None) -> None:
        """Note why no line of a model is scored now; None: it is."""
        if problem is None:
            self._redis.delete(_key(model, "problem"))
        else:
            self._redis.set(_key(model, "problem"), json.dumps(problem), ex=_PROBLEM_TTL_S)

    def note_recent(self, model: str, lines: Sequence[RecentLine]) -> None:
        """Keep scored lines in place of older ones."""
        kept = [line for line in lines if len(line.data) <= MAX_RECENT_BYTES]
        if not kept:
            return
        recent, unusual = _key(model, "recent"), _key(model, "unusual")
        with self._redis.pipeline() as pipe:
            pipe.rpush(recent, *(line.data for line in kept))
            pipe.rpush(unusual, *(f"{line.calibration} {int(line.is_unusual)}" for line in kept))
            for key in (recent, unusual):
                pipe.ltrim(key, -MAX_RECENT_LINES, -1)
                pipe.expire(key, _RECENT_TTL_S)
            pipe.execute()

    def recent(self, model: str) -> list[bytes]:
        """Return the newest scored lines, the oldest first."""
        return cast(list[bytes], self._redis.lrange(_key(model, "recent"), 0, -1))

    def unusual(self, model: str) -> tuple[int, int]:
        """Return how many recent lines the newest calibration judged, and how many as unusual."""
        found = cast(list[bytes], self._redis.lrange(_key(model, "unusual"), 0, -1))
        if not found:
            return 0, 0
        newest = found[-1].rpartition(b" ")[0]
        judged = [one.rpartition(b" ") for one in found]
        flags = [flag for calibration, _, flag in judged if calibration == newest]
        return len(flags), flags.count(b"1")

    def forget_recent(self, model: str) -> None:
        """Forget the recent lines, as after calibrating on them."""
        self._redis.delete(_key(model, "recent"), _key(model, "unusual"))

    def status(self, model: str) -> IngestStatus:
        """Return the state of a model's lines."""
        key, now = lines_key(model), time.time()
        minute = int(now // 60)
        with self._redis.pipeline() as pipe:
            pipe.xlen(key)
            pipe.memory_usage(key)
            pipe.xrange(key, count=1)
            pipe.hgetall(_key(model, "counts"))
            pipe.hgetall(_key(model, f"minute:{minute - 1}"))
            pipe.hgetall(_key(model, f"minute:{minute}"))
            pipe.get(_key(model, "problem"))
            waiting, size, oldest, counts, previous, current, problem = pipe.execute()
        share = 1 - (now / 60 - minute)  # of the minute before that is in the last 60 seconds
        counted: dict[Counter, int] = {name: int(counts.get(name.encode(), 0)) for name in _COUNTERS}
        gone = sum(counted[name] for name in ("dropped", "expired", "failed"))
        counted["scored"] = max(0, counted["accepted"] - waiting - gone)
        rates = {
            name: share * int(previous.get(name.encode(), 0)) + int(current.get(name.encode(), 0))
            for name in (*_COUNTERS, "scored")
        }
        rates["scored"] += rates["flagged"]  # which are acknowledged elsewhere
        return IngestStatus(
            counts=counted,
            per_minute=cast(Mapping[Counter, float], rates),
            waiting=waiting,
            bytes=(size or 0) if waiting else 0,
            oldest_age_s=max(0.0, now - int(oldest[0][0].partition(b"-")[0]) / 1000) if oldest else None,
            consumers=self._consumers(key),
            problem=json.loads(problem) if problem else None,
        )

    def _consumers(self, key: str) -> list[Consumer]:
        try:
            found = self._redis.xinfo_consumers(key, GROUP)
        except ResponseError:  # there is no such stream
            return []
        return [Consumer(one["name"].decode(), one["pending"], one["idle"] / 1000) for one in found]


def lines_key(model: str) -> str:
    """Return the key of the stream of a model's lines."""
    return _key(model, "lines")


def _key(model: str, name: str) -> str:
    return f"{_PREFIX}{model}:{name}"


def _flat(entries: Any) -> Any:
    # With RESP3 redis-py nests the entries of each stream in one more list.
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _entry(raw: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    entry, fields = raw
    return Entry(entry.decode(), fields[b"line"], LineMeta.load(fields[b"meta"]))
