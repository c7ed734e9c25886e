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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from redis import Redis

from nextchar.models.anomaly.alerts import CRITICAL_P, WARNING_P, AlertKey, Occurrence, severity_of
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
local batch = cjson.decode(ARGV[1])
local function lowest(a, b) if a and b then return math.min(a, b) end return a or b end
local function highest(a, b) if a and b then return math.max(a, b) end return a or b end
local function nil_if_null(value) if value == cjson.null then return nil end return value end

local function add_examples(kept, new)
  for _, example in ipairs(new) do
    local known = false
    for _, other in ipairs(kept) do known = known or other.line == example.line end
    if not known then
      local at = #kept + 1
      while at > 1 and kept[at - 1].score < example.score do at = at - 1 end
      table.insert(kept, at, example)
      kept[{MAX_EXAMPLES} + 1] = nil
    end
  end
end

local function add_values(kept, new)
  for value, one in pairs(new) do
    local known = kept[value]
    if known then
      known.count = known.count + one.count
      known.estimated_p = math.min(known.estimated_p, one.estimated_p)
      if one.score > known.score then known.score, known.line = one.score, one.line end
    else
      kept[value] = one
    end
  end
  local scores = {{}}
  for value, one in pairs(kept) do scores[#scores + 1] = {{one.score, value}} end
  table.sort(scores, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for i = {MAX_VALUES} + 1, #scores do kept[scores[i][2]] = nil end
end

local function add_counts(counts, interval_s, start, new)
  for _, pair in ipairs(new) do
    local at = math.max(0, math.floor((pair[1] - start) / interval_s))
    while at >= {MAX_INTERVALS} do
      local merged = {{}}
      for i = 1, #counts, 2 do merged[#merged + 1] = counts[i] + (counts[i + 1] or 0) end
      counts, interval_s = merged, interval_s * 2
      at = math.floor((pair[1] - start) / interval_s)
    end
    while #counts <= at do counts[#counts + 1] = 0 end
    counts[at + 1] = counts[at + 1] + pair[2]
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
  local sum = evicted[model] or {{count = 0, version = version, examples = {{}}}}
  evicted[model] = sum
  sum.count = sum.count + 1
  sum.score = highest(sum.score, tonumber(score))
  sum.p_value = lowest(sum.p_value, tonumber(p_value))
  sum.estimated_p = lowest(sum.estimated_p, tonumber(estimated_p or p_value))
  add_examples(sum.examples, {{cjson.decode(examples)[1]}})
end

local function total_bytes()
  local sum, sizes = 0, redis.call('zrange', '{_OWNERS}', 0, -1, 'withscores')
  for i = 2, #sizes, 2 do sum = sum + sizes[i] end
  return sum
end

local function record(group)
  local key = '{ALERT}' .. group.id
  local names = {{'count', 'first_seen', 'last_seen', 'first_line_time', 'last_line_time', 'score', 'p_value',
    'estimated_p', 'interval_s'}}
  local old = {{}}
  for i, value in ipairs(redis.call('hmget', key, unpack(names))) do
    old[names[i]] = tonumber(value or nil)
  end
  local stored = redis.call('hmget', key, 'examples', 'counts', 'sources', 'values')
  local examples = cjson.decode(stored[1] or '[]')
  add_examples(examples, group.examples)
  local values = cjson.decode(stored[4] or '{{}}')
  add_values(values, group.values or {{}})
  local sources, known = cjson.decode(stored[3] or '[]'), {{}}
  for _, source in ipairs(sources) do known[source] = true end
  for _, source in ipairs(group.sources) do
    if not known[source] and #sources < {_MAX_SOURCES} then sources[#sources + 1] = source end
    known[source] = true
  end
  local start = old.first_seen or group.first_seen
  local counts, interval_s = add_counts(
    cjson.decode(stored[2] or '[]'), old.interval_s or {FIRST_INTERVAL_S}, start, group.times)
  local last_seen = highest(old.last_seen, group.last_seen)
  local fields = {{
    first_seen = start, last_seen = last_seen,
    first_line_time = lowest(old.first_line_time, nil_if_null(group.first_line_time)),
    last_line_time = highest(old.last_line_time, nil_if_null(group.last_line_time)),
    score = highest(old.score, group.score), p_value = lowest(old.p_value, group.p_value),
    estimated_p = lowest(old.estimated_p or old.p_value, group.estimated_p),
    interval_s = interval_s,
  }}
  for name, value in pairs(fields) do redis.call('hset', key, name, string.format('%.17g', value)) end
  redis.call('hset', key, 'model', group.model, 'version', group.version, 'template_id', group.template_id,
    'template', group.template, 'span', group.span, 'examples', cjson.encode(examples),
    'counts', cjson.encode(counts), 'values', cjson.encode(values),
    'sources', #sources > 0 and cjson.encode(sources) or '[]')
  redis.call('hincrby', key, 'count', group.count)
  redis.call('expire', key, {TTL_S})
  redis.call('zadd', '{ALERTS}', 'GT', ARGV[4], group.id)
  local rank = group.rank or
    (fields.estimated_p <= {CRITICAL_P} and 2 or fields.estimated_p <= {WARNING_P} and 1 or 0)
  local of_model = '{ALERTS_OF_MODEL}' .. group.model
  redis.call('zadd', of_model, rank * {_RANK} + last_seen, group.id)
  local _, owner = size_of(group.id)
  owner = owner or group.owner
  redis.call('hset', key, 'owner', owner)
  local texts = #cjson.encode(examples) + #cjson.encode(values)
  local bytes = {_OVERHEAD_BYTES} + texts + 2 * #group.template
  resize(group.id, bytes, owner, rank * {_RANK} + tonumber(ARGV[4]))
  for severity, count in pairs(group.severities) do
    redis.call('hincrby', '{LINES}', severity .. ' ' .. group.model, count)
  end
  if not old.count then redis.call('hincrby', '{OPENED}', group.severity .. ' ' .. group.model, 1) end
  changed[of_model] = true
end

for _, entry in ipairs(batch) do
  local is_new = true
  if ARGV[5] then
    is_new = redis.call('xack', ARGV[5], ARGV[6], entry.id) == 1
    if is_new then redis.call('xdel', ARGV[5], entry.id) end
  end
  if is_new then
    for _, group in ipairs(entry.groups) do record(group) end
  end
end
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
    by_entry: dict[str | None, list[Occurrence]] = {}
    if acknowledge:
        by_entry = {entry: [] for entry in acknowledge.ids}
        if unknown := {one.entry for one in occurrences} - by_entry.keys():
            raise ValueError(f"occurrences of entries that are not acknowledged: {unknown}")
    for one in occurrences:
        by_entry.setdefault(one.entry if acknowledge else None, []).append(one)
    arguments = (str(limits.max_per_model), str(limits.max_bytes), repr(recorded_at))
    stream = (acknowledge.stream, acknowledge.group) if acknowledge else ()
    for batch in _batches(by_entry):
        result = cast(str, redis.eval(_RECORD, 0, json.dumps(batch), *arguments, *stream))
        evicted: Mapping[str, Any] = json.loads(result) or {}
        if evicted:
            groups = [_summary(model, sums, now=recorded_at) for model, sums in evicted.items()]
            redis.eval(_RECORD, 0, json.dumps([{"groups": groups}]), *arguments)


def _batches(by_entry: dict[str | None, list[Occurrence]]) -> list[list[dict[str, Any]]]:
    """Return the entries, each with its occurrences merged by alert, in batches of about _BATCH."""
    batches: list[list[dict[str, Any]]] = [[]]
    size = 0
    for entry, occurrences in by_entry.items():
        if size and size + len(occurrences) > _BATCH:
            batches.append([])
            size = 0
        size += len(occurrences) + 1
        groups: dict[str, list[Occurrence]] = {}
        for one in occurrences:
            groups.setdefault(one.alert_id, []).append(one)
        batches[-1].append({"id": entry or "", "groups": [_merged(group) for group in groups.values()]})
    return batches if batches[0] else []


def _merged(occurrences: Sequence[Occurrence]) -> dict[str, Any]:
    """Return what the script adds to an alert for these occurrences of it."""
    newest = max(occurrences, key=lambda one: one.time)
    line_times = [one.line_time for one in occurrences if one.line_time is not None]
    times: dict[int, int] = {}
    severities: dict[str, int] = {}
    for one in occurrences:
        times[int(one.time)] = times.get(int(one.time), 0) + 1
        severities[one.severity] = severities.get(one.severity, 0) + 1
    distinct = {one.line: one for one in sorted(occurrences, key=lambda one: one.score)}
    examples = sorted(distinct.values(), key=lambda one: -one.score)[:MAX_EXAMPLES]
    rarest = min(one.rarity for one in occurrences)
    return {
        "id": newest.alert_id,
        "model": newest.model,
        "version": newest.version,
        "template_id": newest.template_id,
        "template": newest.template,
        "span": newest.span,
        "count": len(occurrences),
        "first_seen": min(one.time for one in occurrences),
        "last_seen": newest.time,
        "first_line_time": min(line_times, default=None),
        "last_line_time": max(line_times, default=None),
        "score": max(one.score for one in occurrences),
        "p_value": min(one.p_value for one in occurrences),
        "estimated_p": rarest,
        "severity": severity_of(rarest),
        "severities": severities,
        "times": sorted(times.items()),
        "sources": sorted({one.source for one in occurrences if one.source})[:_MAX_SOURCES],
        "examples": [_example(one) for one in examples],
        "values": _values(occurrences),
        "owner": newest.owner,
    }


def _values(occurrences: Sequence[Occurrence]) -> dict[str, dict[str, Any]]:
    """Return of each value its number of lines, its highest score and lowest p-value, and its rarest line."""
    found: dict[str, dict[str, Any]] = {}
    for one in sorted(occurrences, key=lambda one: -one.score):
        value = found.setdefault(
            one.value,
            {
                "count": 0,
                "score": one.score,
                "estimated_p": one.rarity,
                "line": one.line[:MAX_VALUE_LINE_CHARACTERS],
            },
        )
        value["count"] += 1
        value["estimated_p"] = min(value["estimated_p"], one.rarity)
    return found


def _summary(model: str, evicted: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Return what the script adds to the alert that sums up a model's evicted ones, which is evicted last."""
    return {
        **evicted,
        "id": EVICTED_KEY.alert_id(model),
        "model": model,
        "template_id": EVICTED_KEY.template_id,
        "template": EVICTED_KEY.template,
        "span": EVICTED_KEY.span,
        "first_seen": now,
        "last_seen": now,
        "first_line_time": None,
        "last_line_time": None,
        "severity": severity_of(evicted["estimated_p"]),
        "severities": {},
        "times": [[int(now), evicted["count"]]],
        "sources": [],
        "owner": "",
        "rank": 3,
    }


def _example(one: Occurrence) -> dict[str, Any]:
    # The spans are JSON in a string, because the script would write an empty list as an empty object.
    example = {
        "line": one.line,
        "score": one.score,
        "p_value": one.p_value,
        "spans": json.dumps([asdict(span) for span in one.spans]),
        "value": one.value,
        "time": one.time,
        "source": one.source,
    }
    return example if one.line_time is None else {**example, "line_time": one.line_time}
