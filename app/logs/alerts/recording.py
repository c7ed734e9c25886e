"""Counts occurrences in their alerts, in Redis, by one script.

    nextchar:alert:<id>              a hash: the fields of an alert; expires a while after its last occurrence
    nextchar:alerts                  a sorted set: all alerts by when an occurrence was last recorded, in Unix
                                     seconds; later than it arrived, if it waited to be scored
    nextchar:alerts:of:<model name>  a sorted set: those of one model by severity, then by the arrival of
                                     their last occurrence
    nextchar:alerts:owner:<key name> a sorted set: those whose first line this API key sent, by severity, then
                                     by when an occurrence was last recorded
    nextchar:alerts:size             a hash: alert id -> "<bytes> <key name>"
    nextchar:alerts:bytes            a sorted set: names of API keys by the bytes of their alerts
    nextchar:alerts:lines            a hash: "<severity> <model name>" -> occurrences so far
    nextchar:alerts:opened           a hash: "<severity> <model name>" -> alerts so far, by their first line
    nextchar:alerts:evicted          a hash: <model name> -> alerts that were evicted
    nextchar:alerts:around:<model name>
                                     a hash: alert id -> its newest flagged event that an agent sent, with
                                     those before and after it, as JSON; expires

Occurrences are recorded by one script, which Redis runs as a whole or not at all. It can acknowledge entries
of a stream in the same step: the occurrences of an entry are counted only if this call is the one that
acknowledges it, and the entry is then deleted. So a line is counted once however often its entry is
delivered, whichever process dies.

The bytes of all alerts and the number of each model's are limited. Above that, an alert of the model, or of
the key whose alerts take the most, is evicted: the least severe, of these the one that was not seen for
longest. So ever new templates of one sender do not evict the alerts of others, nor more severe ones. An alert
of the model sums up those that were evicted: the number, the lowest p-value, and the lines with the highest
scores.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from nextchar.models.anomaly.alerts import CRITICAL_P, SEVERITIES, WARNING_P, AlertKey, Occurrence
from nextchar.models.text.line_tokens import WILDCARD

MAX_EXAMPLES = 5
"""Lines kept of an alert: distinct ones, with the highest scores."""

MAX_VALUES = 50
"""Values kept of an alert: those with the highest scores."""

MAX_VALUE_LINE_CHARACTERS = 300
"""Of the line that is kept of each value."""

MAX_INTERVALS = 48
"""Intervals of an alert's sparkline. When time exceeds them, they are merged in pairs."""

FIRST_INTERVAL_S = 60.0

TTL_S = 30 * 86_400
"""Time from its last occurrence until an alert is deleted."""

EVICTED_KEY = AlertKey(f"too many alerts: {WILDCARD} evicted", "")
"""That of the alert that sums up a model's evicted ones."""

_MAX_SOURCES = 10
_BATCH = 500  # occurrences per call of the script, unless one entry has more

ALERTS, LINES, OPENED, EVICTED = (
    f"nextchar:alerts{suffix}" for suffix in ("", ":lines", ":opened", ":evicted")
)
ALERTS_OF_MODEL = "nextchar:alerts:of:"
ALERTS_OF_OWNER = "nextchar:alerts:owner:"
AROUND = "nextchar:alerts:around:"
ALERT = "nextchar:alert:"

_SIZES, _OWNERS = "nextchar:alerts:size", "nextchar:alerts:bytes"
_RANK = 10**10  # an alert's score in the sets by severity: rank * _RANK + Unix seconds
_OVERHEAD_BYTES = 2_500  # of an alert in addition to the texts that are counted

FORGET = f"""
local function size_of(id)
  return string.match(redis.call('hget', '{_SIZES}', id) or '', '^(%d+) (.*)$')
end
local function resize(id, bytes, owner, score)
  local before = size_of(id) or 0
  redis.call('hset', '{_SIZES}', id, bytes .. ' ' .. owner)
  redis.call('zadd', '{ALERTS_OF_OWNER}' .. owner, score, id)
  redis.call('zincrby', '{_OWNERS}', bytes - before, owner)
end
local function forget(id, model)
  redis.call('del', '{ALERT}' .. id)
  redis.call('zrem', '{ALERTS}', id)
  if model then redis.call('zrem', '{ALERTS_OF_MODEL}' .. model, id) end
  local bytes, owner = size_of(id)
  if not bytes then return end
  redis.call('hdel', '{_SIZES}', id)
  redis.call('zrem', '{ALERTS_OF_OWNER}' .. owner, id)
  redis.call('zincrby', '{_OWNERS}', -bytes, owner)
  if redis.call('exists', '{ALERTS_OF_OWNER}' .. owner) == 0 then redis.call('zrem', '{_OWNERS}', owner) end
end
"""
"""Lua: the size and the owner of an alert; set its size, its owner and its rank; delete it."""

_RECORD = f"""
{FORGET}
local function lowest(a, b) if a and b then return math.min(a, b) end return a or b end
local function highest(a, b) if a and b then return math.max(a, b) end return a or b end
local function rank_of(p) return p <= {CRITICAL_P} and 2 or p <= {WARNING_P} and 1 or 0 end
local severities = {{[0] = '{SEVERITIES[0]}', '{SEVERITIES[1]}', '{SEVERITIES[2]}'}}
local numbers = {{'count', 'first_seen', 'last_seen', 'first_line_time', 'last_line_time', 'score', 'p_value',
  'estimated_p', 'interval_s'}}
local lists = {{'examples', 'counts', 'sources', 'values'}}

local function add_example(kept, example)
  for _, other in ipairs(kept) do if other.line == example.line then return end end
  local at = #kept + 1
  while at > 1 and kept[at - 1].score < example.score do at = at - 1 end
  table.insert(kept, at, example)
  kept[{MAX_EXAMPLES} + 1] = nil
end

local function add_value(kept, one)
  local known = kept[one.value] or {{count = 0, score = -math.huge, estimated_p = one.estimated_p}}
  kept[one.value] = known
  known.count, known.estimated_p = known.count + 1, math.min(known.estimated_p, one.estimated_p)
  if one.score > known.score then known.score, known.line = one.score, one.value_line end
end

local function drop_values(kept)
  local scores = {{}}
  for value, one in pairs(kept) do scores[#scores + 1] = {{one.score, value}} end
  table.sort(scores, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for i = {MAX_VALUES} + 1, #scores do kept[scores[i][2]] = nil end
end

local function add_source(kept, source)
  for _, other in ipairs(kept) do if other == source then return end end
  if source ~= '' and #kept < {_MAX_SOURCES} then kept[#kept + 1] = source end
end

local function add_counts(counts, interval_s, start, times)
  for _, time in ipairs(times) do
    local at = math.max(0, math.floor((math.floor(time) - start) / interval_s))
    while at >= {MAX_INTERVALS} do
      local merged = {{}}
      for i = 1, #counts, 2 do merged[#merged + 1] = counts[i] + (counts[i + 1] or 0) end
      counts, interval_s = merged, interval_s * 2
      at = math.floor((math.floor(time) - start) / interval_s)
    end
    while #counts <= at do counts[#counts + 1] = 0 end
    counts[at + 1] = counts[at + 1] + 1
  end
  return counts, interval_s
end

local changed, evicted = {{}}, {{}}
local function evict_first(of)
  local id = redis.call('zrange', of, 0, 0)[1]
  local model, version, score, p_value, estimated_p, examples = unpack(redis.call('hmget', '{ALERT}' .. id,
    'model', 'version', 'score', 'p_value', 'estimated_p', 'examples'))
  forget(id, model)
  redis.call('zrem', of, id)
  if not model then return end
  redis.call('hincrby', '{EVICTED}', model, 1)
  evicted[#evicted + 1] = {{model = model, version = version, score = tonumber(score),
    p_value = tonumber(p_value), estimated_p = tonumber(estimated_p or p_value),
    example = cjson.decode(examples)[1]}}
end

local function total_bytes()
  local sum, sizes = 0, redis.call('zrange', '{_OWNERS}', 0, -1, 'withscores')
  for i = 2, #sizes, 2 do sum = sum + sizes[i] end
  return sum
end

local alerts = {{}} -- that this call has changed, by their ids
local function load(id)
  local alert = {{times = {{}}}}
  for i, value in ipairs(redis.call('hmget', '{ALERT}' .. id, unpack(numbers))) do
    alert[numbers[i]] = tonumber(value or nil)
  end
  alert.is_new = not alert.count
  for i, value in ipairs(redis.call('hmget', '{ALERT}' .. id, unpack(lists))) do
    alert[lists[i]] = cjson.decode(value or '{{}}')
  end
  alerts[id] = alert
  return alert
end

local function record(one)
  local alert = alerts[one.id] or load(one.id)
  alert.first = alert.first or one
  if not alert.newest or one.time >= alert.newest.time then alert.newest = one end
  alert.count = (alert.count or 0) + 1
  alert.times[#alert.times + 1] = one.time
  if alert.is_new then alert.first_seen = lowest(alert.first_seen, one.time) end
  alert.last_seen = highest(alert.last_seen, one.time)
  alert.first_line_time = lowest(alert.first_line_time, one.line_time)
  alert.last_line_time = highest(alert.last_line_time, one.line_time)
  alert.score = highest(alert.score, one.score)
  alert.estimated_p = lowest(alert.estimated_p or alert.p_value, one.estimated_p)
  alert.p_value = lowest(alert.p_value, one.p_value)
  add_example(alert.examples, one.example or {{line = one.line, score = one.score, p_value = one.p_value,
    spans = one.spans, value = one.value, time = one.time, line_time = one.line_time, source = one.source}})
  add_source(alert.sources, one.source)
  if one.value then add_value(alert.values, one) end
  local severity = severities[rank_of(one.estimated_p)]
  if alert.count == 1 then redis.call('hincrby', '{OPENED}', severity .. ' ' .. one.model, 1) end
  if not one.rank then redis.call('hincrby', '{LINES}', severity .. ' ' .. one.model, 1) end
end

local function save(id, alert)
  local key, one = '{ALERT}' .. id, alert.newest
  alert.counts, alert.interval_s = add_counts(
    alert.counts, alert.interval_s or {FIRST_INTERVAL_S}, alert.first_seen, alert.times)
  drop_values(alert.values)
  for _, name in ipairs(numbers) do
    if alert[name] then redis.call('hset', key, name, string.format('%.17g', alert[name])) end
  end
  local examples, values = cjson.encode(alert.examples), cjson.encode(alert.values)
  local _, owner = size_of(id)
  owner = owner or alert.first.owner
  redis.call('hset', key, 'model', one.model, 'version', one.version, 'template_id', one.template_id,
    'template', one.template, 'span', one.span, 'owner', owner, 'examples', examples, 'values', values,
    'counts', cjson.encode(alert.counts),
    'sources', #alert.sources > 0 and cjson.encode(alert.sources) or '[]')
  redis.call('expire', key, {TTL_S})
  redis.call('zadd', '{ALERTS}', 'GT', ARGV[4], id)
  local rank = one.rank or rank_of(alert.estimated_p)
  local of_model = '{ALERTS_OF_MODEL}' .. one.model
  redis.call('zadd', of_model, rank * {_RANK} + alert.last_seen, id)
  local bytes = {_OVERHEAD_BYTES} + #examples + #values + 2 * #one.template
  resize(id, bytes, owner, rank * {_RANK} + tonumber(ARGV[4]))
  changed[of_model] = true
end

for _, entry in ipairs(cjson.decode(ARGV[1])) do
  local is_new = true
  if ARGV[5] then
    is_new = redis.call('xack', ARGV[5], ARGV[6], entry.id) == 1
    if is_new then redis.call('xdel', ARGV[5], entry.id) end
  end
  if is_new then
    for _, one in ipairs(entry.occurrences) do record(one) end
  end
end
for id, alert in pairs(alerts) do save(id, alert) end
local expired = redis.call('time')[1] - {TTL_S}
for _, id in ipairs(redis.call('zrangebyscore', '{ALERTS}', '-inf', expired)) do forget(id) end
for of_model in pairs(changed) do
  for rank = 0, 3 do
    redis.call('zremrangebyscore', of_model, rank * {_RANK}, rank * {_RANK} + expired)
  end
  while redis.call('zcard', of_model) > tonumber(ARGV[2]) do evict_first(of_model) end
end
while total_bytes() > tonumber(ARGV[3]) do
  evict_first('{ALERTS_OF_OWNER}' .. redis.call('zrevrange', '{_OWNERS}', 0, 0)[1])
end
return cjson.encode(evicted)
"""


@dataclass(frozen=True)
class Limits:
    """Limits on the bytes of all alerts, about as they take in Redis, and on the number of each model's."""

    max_bytes: int = 48 << 20
    max_per_model: int = 1_000


@dataclass(frozen=True)
class StreamEntries:
    """Entries of a Redis stream that a consumer group was given, to be acknowledged and deleted."""

    stream: str
    group: str
    ids: Sequence[str]


def record(
    redis: Redis,
    occurrences: Sequence[Occurrence],
    *,
    limits: Limits,
    recorded_at: float,
    acknowledge: StreamEntries | None = None,
) -> None:
    """Count occurrences, each in its alert. `recorded_at` is now, in Unix seconds.

    With `acknowledge`, each occurrence names one of the entries in its field `entry`, and is counted only
    if this call acknowledges that entry; entries without occurrences are acknowledged too. The call can
    be repeated after any error. Without it, a call that is repeated counts again.

    Raises:
        ValueError: an occurrence names no entry of `acknowledge`.
    """
    found = sorted(occurrences, key=lambda one: -one.score)
    if acknowledge:
        by_entry: dict[str | None, list[dict[str, Any]]] = {entry: [] for entry in acknowledge.ids}
        if unknown := {one.entry for one in found} - by_entry.keys():
            raise ValueError(f"occurrences of entries that are not acknowledged: {unknown}")
        for one in found:
            by_entry[one.entry].append(_of_script(one))
        entries = [{"id": entry, "occurrences": of_entry} for entry, of_entry in by_entry.items()]
    else:
        entries = [{"occurrences": [_of_script(one)]} for one in found]
    arguments = (str(limits.max_per_model), str(limits.max_bytes), repr(recorded_at))
    stream = (acknowledge.stream, acknowledge.group) if acknowledge else ()
    for batch in _batches(entries):
        result = cast(str, redis.eval(_RECORD, 0, json.dumps(batch), *arguments, *stream))
        if evicted := json.loads(result):
            summed_up = [{"occurrences": [_of_evicted(one, now=recorded_at)]} for one in evicted]
            redis.eval(_RECORD, 0, json.dumps(summed_up), *arguments)


def _batches(entries: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries in batches of about _BATCH."""
    batch: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        lines = len(entry["occurrences"])
        if size and size + lines > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += lines + 1
    if batch:
        yield batch


def _of_script(one: Occurrence) -> dict[str, Any]:
    """Return what the script takes of an occurrence."""
    kept = one.dump()
    # The spans are JSON in a string, because the script would write an empty list as an empty object.
    return kept | {"spans": json.dumps(kept["spans"]), "value_line": kept["line"][:MAX_VALUE_LINE_CHARACTERS]}


def _of_evicted(evicted: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Return an alert as an occurrence of that which sums up evicted ones, and is evicted last itself."""
    key = EVICTED_KEY
    about = {"template_id": key.template_id, "template": key.template, "span": key.span}
    alert_id = key.alert_id(evicted["model"])
    return {**evicted, **about, "id": alert_id, "time": now, "source": "", "owner": "", "rank": 3}
