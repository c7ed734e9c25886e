"""Lines that agents have sent and that wait to be scored: a Redis stream per model, read by a consumer group.

`nextchar.app.logs.ingest.kept_lines` lists its keys. A request's lines are added by one script, so that all
or none are accepted, and `accept` returns when they are in the append-only file on disk. An entry is deleted
by the script that records its result (`nextchar.app.logs.alerts.recording`, or `acknowledge` for lines that
are not flagged); until then it is delivered again if its consumer dies. So each line is recorded once.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import ResponseError

from nextchar.app.http.limits import INGESTED_LINES
from nextchar.app.logs.ingest.kept_lines import (
    COUNT,
    FLAGGED_BYTES,
    PREFIX,
    FlaggedLines,
    FlagRules,
    RecentLines,
    key,
    lines_key,
)
from nextchar.app.logs.ingest.records import COUNTERS, Accepted, Batch, Entry, IngestLimits, LineMeta, Request
from nextchar.app.logs.ingest.schemas import ConsumerBody, IngestProblem, IngestRates, IngestStatusBody
from nextchar.models.errors import Conflict, TooLarge, Unavailable

GROUP = "scoring"
"""The consumer group."""

MAX_FAILED_KEPT = 1_000
"""Lines that could not be scored and are kept for inspection."""

MAX_DELIVERIES = 5
"""A line that was delivered this often and never finished is moved to the failed lines."""

SUSPECT_DELIVERIES = 2
"""A line that was delivered this often is delivered alone, so that it cannot fail its neighbors."""

FSYNC_WAIT_S = 5.0
"""How long `accept` waits until the lines are on disk. The append-only file is synced every second."""

_MODELS_KEY = f"{PREFIX}models"
_PROBLEM_TTL_S = 120
_CONSUMER_TTL_MS = 3_600_000
_LINE_BYTES = 60  # about what an entry takes in addition to its fields

# ARGV: request key or '', digest of its body, its TTL, max lines, max bytes; then for each model its name,
# the number of rejected lines, the number of lines, and of each line its bytes and its meta.
_ACCEPT = (
    COUNT
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
  bytes = bytes + (redis.call('memory', 'usage', '{PREFIX}' .. model .. ':lines') or 0)
end
local at = 6
while at <= #ARGV do
  local model, lines = ARGV[at], tonumber(ARGV[at + 2])
  local waiting = redis.call('xlen', '{PREFIX}' .. model .. ':lines')
  if waiting + lines > tonumber(max_lines) then return {{'lines', model, waiting}} end
  for i = at + 3, at + 2 + 2 * lines do bytes = bytes + #ARGV[i] + {_LINE_BYTES // 2} end
  at = at + 3 + 2 * lines
end
if bytes > tonumber(max_bytes) then return {{'bytes', '', bytes}} end
at = 6
while at <= #ARGV do
  local model, lines = ARGV[at], tonumber(ARGV[at + 2])
  local stream = '{PREFIX}' .. model .. ':lines'
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
_ACKNOWLEDGE = (
    COUNT
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
    COUNT
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
    COUNT
    + f"""
local waiting = redis.call('xlen', KEYS[1])
if waiting > 0 then
  redis.call('del', KEYS[1])
  redis.call('xgroup', 'create', KEYS[1], '{GROUP}', '0', 'mkstream')
  count(ARGV[1], 'dropped', waiting)
end
redis.call('del', unpack(KEYS, 2))
redis.call('zrem', '{FLAGGED_BYTES}', ARGV[1])
return waiting
"""
)
_FORGET = f"""
if redis.call('xlen', KEYS[1]) > 0 then return 0 end
redis.call('del', unpack(KEYS))
redis.call('zrem', '{FLAGGED_BYTES}', ARGV[1])
return redis.call('srem', '{_MODELS_KEY}', ARGV[1])
"""
_EXPIRE = (
    COUNT
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
        self.flagged = FlaggedLines(redis)
        self.recent = RecentLines(redis)
        self.rules = FlagRules(redis)

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
        request_key = f"{PREFIX}request:{request.key}" if request else ""
        arguments: list[Any] = [request_key, request.body if request else "", self._repeat_s]
        arguments += [self._limits.max_lines, self._limits.max_bytes]
        for batch in batches:
            arguments += [batch.model, batch.rejected, len(batch.lines)]
            for line in batch.lines:
                arguments += (line.data, line.meta.dump())
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.eval(_ACCEPT, 1, _MODELS_KEY, *arguments)
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
                        "this Idempotency-Key was used with another body; use a new key for each batch",
                        code="idempotency_key_reused",
                        param="Idempotency-Key",
                    )
                return Accepted(int(count), is_repeated=True)
            case [b"lines", bytes(model), int(waiting)]:
                what = f"{waiting:,} lines wait to be scored by {model.decode()}"
            case [_, _, int(used)]:
                what = f"the waiting lines and these take {used:,} bytes together"
            case _:
                raise AssertionError(result)
        raise INGESTED_LINES.refusal(f"{what}; send again later")

    def models(self) -> list[str]:
        """Return the models that lines were sent to, by name."""
        return sorted(name.decode() for name in cast(set[bytes], self._redis.smembers(_MODELS_KEY)))

    def waiting(self, model: str) -> int:
        """Return how many lines wait, those that are being scored included."""
        return self._redis.xlen(lines_key(model))

    def waiting_owners(self) -> dict[str, str]:
        """Return the models of which lines wait, and the API key that sent the first of each ("": none)."""
        models = self.models()
        with self._redis.pipeline(transaction=False) as pipe:
            for model in models:
                pipe.xrange(lines_key(model), count=1)
            found = pipe.execute()
        first = {model: _entry(entries[0]) for model, entries in zip(models, found, strict=True) if entries}
        return {model: entry.meta.owner or "" for model, entry in first.items()}

    def batch_lines(self, model: str, *, max_lines: int, max_bytes: int) -> int:
        """Return how many lines take about `max_bytes`, by the average of those that wait; at least 1."""
        with self._redis.pipeline() as pipe:
            pipe.xlen(lines_key(model))
            pipe.memory_usage(lines_key(model))
            waiting, size = pipe.execute()
        return max(1, min(max_lines, max_bytes * waiting // size)) if size else 1

    def read(self, model: str, consumer: str, *, max_lines: int) -> list[Entry]:
        """Deliver new lines to a consumer."""
        try:
            response = cast(
                Any, self._redis.xreadgroup(GROUP, consumer, {lines_key(model): ">"}, count=max_lines)
            )
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):  # the stream is gone, for example after FLUSHALL
                return []
            raise
        streams = response.items() if isinstance(response, dict) else response
        return [_entry(one) for _, entries in streams or () for one in _flat(entries)]

    def claim(self, model: str, consumer: str, *, idle_s: float, max_lines: int) -> list[Entry]:
        """Deliver lines again that a consumer has had for `idle_s` without finishing them.

        Lines that were delivered MAX_DELIVERIES times are moved to the failed ones, and those that were
        delivered SUSPECT_DELIVERIES times are delivered one at a time.
        """
        stream, idle_ms = lines_key(model), int(idle_s * 1000)
        try:
            pending = cast(
                list[dict[str, Any]],
                self._redis.xpending_range(stream, GROUP, "-", "+", max_lines, idle=idle_ms),
            )
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return []
            raise
        deliveries = {one["message_id"]: one["times_delivered"] for one in pending}
        if lost := [entry for entry, times in deliveries.items() if times >= MAX_DELIVERIES]:
            self.fail(model, [entry.decode() for entry in lost], "scoring it was interrupted several times")
        ids = [entry for entry in deliveries if entry not in lost]
        fresh = [entry for entry in ids if deliveries[entry] < SUSPECT_DELIVERIES]
        ids = fresh or ids[:1]
        if not ids:
            return []
        claimed = cast(Any, self._redis.xclaim(stream, GROUP, consumer, idle_ms, ids))
        return [_entry(one) for one in claimed if one[1]]

    def keep(self, model: str, consumer: str, ids: Sequence[str]) -> None:
        """Restart the idle time of lines that a consumer still works on, so that no other claims them."""
        cast(Any, self._redis).xclaim(lines_key(model), GROUP, consumer, 0, list(ids), justid=True)

    def acknowledge(self, model: str, ids: Sequence[str]) -> int:
        """Delete scored lines that are not flagged; return how many of them were still waiting."""
        return int(cast(int, self._redis.eval(_ACKNOWLEDGE, 1, lines_key(model), model, GROUP, *ids)))

    def fail(self, model: str, ids: Sequence[str], reason: str) -> int:
        """Move lines that cannot be scored to the failed ones, of which the newest are kept."""
        keys = (lines_key(model), key(model, "failed"))
        arguments: list[Any] = [model, GROUP, MAX_FAILED_KEPT, reason[:200], *ids]
        return int(cast(int, self._redis.eval(_FAIL, 2, *keys, *arguments)))

    def drop(self, model: str) -> int:
        """Delete the lines that wait, the failed, flagged and recent ones; return how many waited."""
        self.recent.forget(model)
        self.rules.forget(model)
        keys = (lines_key(model), *(key(model, name) for name in ("failed", "announced", "flagged")))
        return int(cast(int, self._redis.eval(_DROP, len(keys), *keys, model)))

    def forget(self, model: str) -> bool:
        """Delete everything of a model that is gone, unless lines wait; return whether it was deleted."""
        names = ("failed", "announced", "flagged", "counts", "problem", "recent", "rules")
        keys = (lines_key(model), *(key(model, name) for name in names))
        return bool(self._redis.eval(_FORGET, len(keys), *keys, model))

    def expire(self, model: str, *, before: float) -> int:
        """Delete lines that were accepted before a time, in Unix seconds; return how many."""
        return int(cast(int, self._redis.eval(_EXPIRE, 1, lines_key(model), model, int(before * 1000))))

    def remove_idle_consumers(self, model: str) -> None:
        """Remove consumers that hold no line and have not read for an hour: their processes have ended."""
        try:
            self._redis.eval(_REMOVE_IDLE_CONSUMERS, 1, lines_key(model), GROUP, _CONSUMER_TTL_MS)
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise

    def set_problem(self, model: str, problem: Mapping[str, str] | None) -> None:
        """Record why no line of a model can be scored now; None: lines are scored."""
        if problem is None:
            self._redis.delete(key(model, "problem"))
        else:
            self._redis.set(key(model, "problem"), json.dumps(problem), ex=_PROBLEM_TTL_S)

    def status(self, model: str) -> IngestStatusBody:
        """Return the state of a model's lines."""
        stream, now = lines_key(model), time.time()
        minute = int(now // 60)
        with self._redis.pipeline() as pipe:
            pipe.xlen(stream)
            pipe.memory_usage(stream)
            pipe.xrange(stream, count=1)
            pipe.hgetall(key(model, "counts"))
            pipe.hgetall(key(model, f"minute:{minute - 1}"))
            pipe.hgetall(key(model, f"minute:{minute}"))
            pipe.get(key(model, "problem"))
            waiting, size, oldest, counts, previous, current, problem = pipe.execute()
        fraction = 1 - (now / 60 - minute)  # of the minute before that is in the last 60 seconds
        counted: dict[str, int] = {name: int(counts.get(name.encode(), 0)) for name in COUNTERS}
        gone = sum(counted[name] for name in ("dropped", "expired", "failed"))
        counted["scored"] = max(0, counted["accepted"] - waiting - gone)
        rates = {
            name: fraction * int(previous.get(name.encode(), 0)) + int(current.get(name.encode(), 0))
            for name in (*COUNTERS, "scored")
        }
        rates["scored"] += rates["flagged"]  # which are acknowledged elsewhere
        received_at = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else None
        return IngestStatusBody(
            model=model,
            waiting=waiting,
            bytes=size if waiting else 0,
            oldest_age_s=None if received_at is None else round(max(0.0, now - received_at), 3),
            per_second=IngestRates(**{n: round(rates[n] / 60, 2) for n in IngestRates.model_fields}),
            consumers=self._consumers(stream),
            problem=IngestProblem(**json.loads(problem)) if problem and waiting else None,
            change=self.rules.change(model),
            **counted,
        )

    def _consumers(self, stream: str) -> list[ConsumerBody]:
        try:
            found = self._redis.xinfo_consumers(stream, GROUP)
        except ResponseError:  # there is no such stream
            return []
        return [
            ConsumerBody(name=one["name"].decode(), pending=one["pending"], idle_s=one["idle"] / 1000)
            for one in found
        ]


def _flat(entries: Any) -> Any:
    # With RESP3 redis-py nests the entries of each stream in one more list.
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _entry(raw: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    entry, fields = raw
    return Entry(entry.decode(), fields[b"line"], LineMeta.load(fields[b"meta"]))
