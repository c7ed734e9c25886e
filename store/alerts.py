"""Alerts: the occurrences of each group of flagged lines, counted in Redis, and the decisions on them.

    nextchar:alert:<id>              a hash: the fields of an alert; expires a while after its last occurrence
    nextchar:alerts                  a sorted set: all alerts by their last occurrence, in Unix seconds
    nextchar:alerts:of:<model name>  the same for one model
    nextchar:alerts:lines            a hash: "<severity> <model name>" -> occurrences so far
    nextchar:alerts:opened           a hash: "<severity> <model name>" -> alerts so far, by their first line
    nextchar:alerts:evicted          a hash: <model name> -> alerts that were evicted

Occurrences are recorded by one script, which Redis runs as a whole or not at all. It can acknowledge entries
of a stream in the same step: the occurrences of an entry are counted only if this call is the one that
acknowledges it, and the entry is then deleted. So a line is counted once however often its entry is
delivered, whichever process dies.

The number of alerts is limited in total and per model: a text of ever new templates evicts the alerts that
were not seen for longest. Decisions on alerts are in the blob store (`store.alert_decisions`).
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

from models.anomaly.alerts import AlertKey, AlertLabel, Label, Occurrence, Severity, severity_of
from models.errors import NotFound
from store.alert_decisions import (
    AlertDecisions,
    AlertFigures,
    Decision,
    Suppression,
    suppressed_until,
)
from store.blobs import Blobs
from store.ids import is_id

AlertState = Literal["open", "acknowledged", "suppressed"]

MAX_EXAMPLES = 5
"""Lines kept of an alert: distinct ones, with the highest scores."""

MAX_INTERVALS = 48
"""Intervals of an alert's sparkline. When time exceeds them, they are merged in pairs."""

FIRST_INTERVAL_S = 60.0

TTL_S = 30 * 86_400
"""Time from its last occurrence until an alert is deleted."""

_MAX_SOURCES = 10
_BATCH = 500  # occurrences per call of the script, unless one entry has more

_ALERTS, _LINES, _OPENED, _EVICTED = (
    f"nextchar:alerts{suffix}" for suffix in ("", ":lines", ":opened", ":evicted")
)
_OF = "nextchar:alerts:of:"
_ALERT = "nextchar:alert:"

_RECORD = f"""
local batch = cjson.decode(ARGV[1])
local function lowest(a, b) if a and b then return math.min(a, b) end return a or b end
local function highest(a, b) if a and b then return math.max(a, b) end return a or b end
local function given(value) if value == cjson.null then return nil end return value end

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

local function evict(of, max_alerts)
  while redis.call('zcard', of) > max_alerts do
    local oldest = redis.call('zrange', of, 0, 0)[1]
    local model = redis.call('hget', '{_ALERT}' .. oldest, 'model')
    redis.call('del', '{_ALERT}' .. oldest)
    redis.call('zrem', '{_ALERTS}', oldest)
    redis.call('zrem', of, oldest)
    if model then
      redis.call('zrem', '{_OF}' .. model, oldest)
      redis.call('hincrby', '{_EVICTED}', model, 1)
    end
  end
end

local function record(group)
  local key = '{_ALERT}' .. group.id
  local names = {{'count', 'first_seen', 'last_seen', 'first_line_time', 'last_line_time', 'score', 'p_value',
    'estimated_p', 'interval_s'}}
  local old = {{}}
  for i, value in ipairs(redis.call('hmget', key, unpack(names))) do
    old[names[i]] = tonumber(value or nil)
  end
  local stored = redis.call('hmget', key, 'examples', 'counts', 'sources')
  local examples = cjson.decode(stored[1] or '[]')
  add_examples(examples, group.examples)
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
    first_line_time = lowest(old.first_line_time, given(group.first_line_time)),
    last_line_time = highest(old.last_line_time, given(group.last_line_time)),
    score = highest(old.score, group.score), p_value = lowest(old.p_value, group.p_value),
    estimated_p = lowest(old.estimated_p or old.p_value, group.estimated_p),
    interval_s = interval_s,
  }}
  for name, value in pairs(fields) do redis.call('hset', key, name, string.format('%.17g', value)) end
  redis.call('hset', key, 'model', group.model, 'version', group.version, 'template_id', group.template_id,
    'template', group.template, 'span', group.span, 'examples', cjson.encode(examples),
    'counts', cjson.encode(counts), 'sources', #sources > 0 and cjson.encode(sources) or '[]')
  redis.call('hincrby', key, 'count', group.count)
  redis.call('expire', key, {TTL_S})
  redis.call('zadd', '{_ALERTS}', last_seen, group.id)
  redis.call('zadd', '{_OF}' .. group.model, last_seen, group.id)
  for severity, count in pairs(group.severities) do
    redis.call('hincrby', '{_LINES}', severity .. ' ' .. group.model, count)
  end
  if not old.count then redis.call('hincrby', '{_OPENED}', group.severity .. ' ' .. group.model, 1) end
  local expired = redis.call('time')[1] - {TTL_S}
  redis.call('zremrangebyscore', '{_ALERTS}', '-inf', expired)
  redis.call('zremrangebyscore', '{_OF}' .. group.model, '-inf', expired)
  evict('{_OF}' .. group.model, tonumber(ARGV[2]))
  evict('{_ALERTS}', tonumber(ARGV[3]))
end

local entries, lines = 0, 0
for _, entry in ipairs(batch) do
  local is_new = true
  if ARGV[4] then
    is_new = redis.call('xack', ARGV[4], ARGV[5], entry.id) == 1
    if is_new then
      redis.call('xdel', ARGV[4], entry.id)
      entries = entries + 1
    end
  end
  if is_new then
    for _, group in ipairs(entry.groups) do
      record(group)
      lines = lines + group.count
    end
  end
end
return {{lines, entries}}
"""


# ARGV: id, new id, model, new model, version. An alert that the new name has already stays as it is.
_MOVE = f"""
local old, new, model, to, version = unpack(ARGV)
local score = redis.call('zscore', '{_ALERTS}', old)
local is_there = redis.call('exists', '{_ALERT}' .. old) == 1
if is_there and score and new ~= '' and redis.call('renamenx', '{_ALERT}' .. old, '{_ALERT}' .. new) == 1 then
  redis.call('hset', '{_ALERT}' .. new, 'model', to, 'version', version)
  redis.call('zadd', '{_ALERTS}', score, new)
  redis.call('zadd', '{_OF}' .. to, score, new)
end
redis.call('del', '{_ALERT}' .. old)
redis.call('zrem', '{_ALERTS}', old)
redis.call('zrem', '{_OF}' .. model, old)
"""


@dataclass(frozen=True)
class Limits:
    """Limits on the number of alerts."""

    max_alerts: int = 10_000
    max_per_model: int = 1_000


@dataclass(frozen=True)
class StreamEntries:
    """Entries of a Redis stream that a consumer group was given, to be acknowledged and deleted."""

    stream: str
    group: str
    ids: Sequence[str]


@dataclass(frozen=True)
class Recorded:
    """What a call of `record` has counted: occurrences, and the entries that it acknowledged."""

    occurrences: int
    entries: int


class Alert(BaseModel):
    """An alert with its decision; its fields besides `figures` are explained in `Decision`."""

    model_config = ConfigDict(frozen=True)

    figures: AlertFigures
    decision: Decision | None = None
    suppressed_until: float | None = None

    @property
    def id(self) -> str:
        """The id of the alert."""
        return self.figures.id

    @property
    def severity(self) -> Severity:
        """That of its rarest line."""
        estimated_p = self.figures.estimated_p
        return severity_of(self.figures.p_value if estimated_p is None else estimated_p)

    @property
    def label(self) -> Label | None:
        """The label that a user has set."""
        return self.decision.label if self.decision else None

    @property
    def state(self) -> AlertState:
        """Whether someone should look at it."""
        if self.suppressed_until is not None:
            return "suppressed"
        is_acknowledged = self.decision and (self.decision.acknowledged_at or self.decision.label)
        return "acknowledged" if is_acknowledged else "open"


class Alerts:
    """The alerts of all models: counted in one Redis (with `decode_responses=True`), judged in one storage.

    Its methods raise redis.exceptions.RedisError, and as Blobs does.
    """

    def __init__(self, redis: Redis, blobs: Blobs, limits: Limits | None = None) -> None:
        self._redis = redis
        self._limits = limits or Limits()
        self.decisions = AlertDecisions(blobs)

    def record(
        self, occurrences: Sequence[Occurrence], *, acknowledge: StreamEntries | None = None
    ) -> Recorded:
        """Count occurrences, each in its alert.

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
        limits = (str(self._limits.max_per_model), str(self._limits.max_alerts))
        stream = (acknowledge.stream, acknowledge.group) if acknowledge else ()
        lines = entries = 0
        for batch in _batches(by_entry):
            counted = self._redis.eval(_RECORD, 0, json.dumps(batch), *limits, *stream)
            new_lines, new_entries = cast(list[int], counted)
            lines, entries = lines + new_lines, entries + new_entries
        return Recorded(lines, entries)

    def all(self, model: str) -> list[Alert]:
        """Return the alerts of the model with this name, most recently seen first.

        An alert that Redis no longer has is included as recorded with its last decision.
        """
        ids = cast(list[str], self._redis.zrevrange(_OF + model, 0, -1))
        figures = {one.id: one for one in self._read(ids)}
        decisions = self.decisions.all(model)
        for alert_id, decision in decisions.items():
            figures.setdefault(alert_id, decision.figures)
        suppressions = self.decisions.suppressions(model)
        alerts = [_alert(one, decisions.get(one.id), suppressions) for one in figures.values()]
        return sorted(alerts, key=lambda alert: (alert.figures.last_seen, alert.id), reverse=True)

    def seen_since(self, since: float) -> list[Alert]:
        """Return the alerts of all models that had an occurrence at or after this time, in Unix seconds."""
        figures = self._read(cast(list[str], self._redis.zrangebyscore(_ALERTS, since, "+inf")))
        decisions = {model: self.decisions.all(model) for model in {one.model for one in figures}}
        suppressions = {model: self.decisions.suppressions(model) for model in decisions}
        return [_alert(one, decisions[one.model].get(one.id), suppressions[one.model]) for one in figures]

    def get(self, model: str, alert_id: str) -> Alert:
        """Return one alert. Raises NotFound: it does not exist, or no longer (code `alert_not_found`)."""
        fields: dict[str, str] = {}
        if is_id("alert", alert_id):
            fields = cast(dict[str, str], self._redis.hgetall(_ALERT + alert_id))
        decision = self.decisions.all(model).get(alert_id)
        figures = _figures(alert_id, fields) if fields else decision and decision.figures
        if not figures or figures.model != model:
            raise NotFound(
                f"model {model} has no alert {alert_id!r}; an alert is deleted {TTL_S // 86_400} days after"
                " its last line, or when there are too many; acknowledged and labeled alerts are kept",
                code="alert_not_found",
            )
        return _alert(figures, decision, self.decisions.suppressions(model))

    def acknowledge(self, model: str, alert_id: str, *, by: str | None) -> Alert:
        """Record that someone takes care of an alert. Raises NotFound and Conflict."""
        return self._decide(model, alert_id, by=by, acknowledged_at=time.time(), acknowledged_by=by)

    def label(self, model: str, alert_id: str, label: Label | None, *, by: str | None) -> Alert:
        """Record what an alert is, or with None that nobody knows. Raises NotFound and Conflict."""
        return self._decide(
            model, alert_id, by=by, label=label, labeled_at=time.time() if label else None, labeled_by=by
        )

    def suppress(self, model: str, alert_id: str, *, until: float, by: str | None) -> Suppression:
        """Suppress an alert until a time, in Unix seconds. Raises NotFound."""
        figures = self.get(model, alert_id).figures
        return self.decisions.suppress(
            model, template=figures.template, span=figures.span, until=until, by=by, alert_id=alert_id
        )

    def labels(self, model: str) -> dict[str, AlertLabel]:
        """Return the labels of a model's groups by the ids of their alerts. Does not need Redis."""
        return {
            alert_id: AlertLabel(decision.label, decision.label_score)
            for alert_id, decision in self.decisions.all(model).items()
            if decision.label
        }

    def labeled_lines(self, model: str) -> list[tuple[str, bool]]:
        """Return the example lines of labeled alerts, in the order of arrival, and which are of incidents."""
        labeled = [decision for decision in self.decisions.all(model).values() if decision.label]
        examples = [
            (example.time, example.line, decision.label == "incident")
            for decision in labeled
            for example in decision.figures.examples
        ]
        return [(line, is_incident) for _, line, is_incident in sorted(examples)]

    def delete_all(self, model: str) -> None:
        """Delete the alerts of a model's name, and the decisions on them."""
        self._move_figures(model, "", 0)
        self.decisions.delete_all(model)

    def move_all(self, model: str, to: str, version: int) -> None:
        """Move the alerts of a model's name, and the decisions on them, to its version of another name.

        An alert's id is a hash of the model's name and the template, so an alert whose template is kept only
        in part is deleted.
        """

        def moved(figures: AlertFigures) -> AlertFigures:
            new_id = _id_under(to, figures) or figures.id
            return figures.model_copy(update={"id": new_id, "model": to, "version": version})

        self._move_figures(model, to, version)
        self.decisions.move_all(model, to, moved)

    def _move_figures(self, model: str, to: str, version: int) -> None:
        ids = cast(list[str], self._redis.zrange(_OF + model, 0, -1))
        known = {figures.id: figures for figures in self._read(ids)}
        for alert_id in ids:
            new_id = _id_under(to, known[alert_id]) if to and alert_id in known else ""
            self._redis.eval(_MOVE, 0, alert_id, new_id, model, to, str(version))

    def evicted(self, model: str) -> int:
        """Return how many alerts of a model were evicted because there were too many."""
        return int(cast(str | None, self._redis.hget(_EVICTED, model)) or 0)

    def totals(self) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
        """Return the occurrences and the alerts so far, by model and severity."""
        counters = (cast(dict[str, str], self._redis.hgetall(key)) for key in (_LINES, _OPENED))
        lines, opened = (
            {(name.split(" ")[1], name.split(" ")[0]): int(count) for name, count in counter.items()}
            for counter in counters
        )
        return lines, opened

    def _read(self, ids: Sequence[str]) -> list[AlertFigures]:
        """Return the alerts with these ids that have not expired."""
        with self._redis.pipeline(transaction=False) as pipe:
            for alert_id in ids:
                pipe.hgetall(_ALERT + alert_id)
            stored = pipe.execute()
        return [_figures(alert_id, fields) for alert_id, fields in zip(ids, stored, strict=True) if fields]

    def _decide(self, model: str, alert_id: str, *, by: str | None, **fields: Any) -> Alert:
        alert = self.get(model, alert_id)
        figures = alert.figures

        def change(current: Decision | None) -> Decision:
            base = current or Decision(changed_at=0.0, figures=figures)
            changed = {"changed_at": time.time(), "changed_by": by, "figures": figures, **fields}
            if fields.get("label") == "normal":
                changed["label_score"] = max(figures.score, base.label_score)
            return base.model_copy(update=changed)

        decision = self.decisions.change(model, alert_id, change)
        return Alert(figures=figures, decision=decision, suppressed_until=alert.suppressed_until)


def _alert(figures: AlertFigures, decision: Decision | None, suppressions: Sequence[Suppression]) -> Alert:
    until = suppressed_until(suppressions, figures.template, figures.span, now=time.time())
    return Alert(figures=figures, decision=decision, suppressed_until=until)


def _id_under(model: str, figures: AlertFigures) -> str:
    """Return the id of an alert under another model's name; empty if its whole template is not kept."""
    group = AlertKey(figures.template, figures.span)
    return group.alert_id(model) if group.alert_id(figures.model) == figures.id else ""


def _figures(alert_id: str, fields: dict[str, str]) -> AlertFigures:
    values: dict[str, Any] = {"first_line_time": None, "last_line_time": None, **fields}
    for name in ("examples", "counts", "sources"):
        values[name] = json.loads(values[name])
    for example in values["examples"]:
        example["spans"] = json.loads(example["spans"])
    return AlertFigures(id=alert_id, **values)


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
    }


def _example(one: Occurrence) -> dict[str, Any]:
    # The spans are JSON in a string, because the script would write an empty list as an empty object.
    example = {
        "line": one.line,
        "score": one.score,
        "p_value": one.p_value,
        "spans": json.dumps([asdict(span) for span in one.spans]),
        "time": one.time,
        "source": one.source,
    }
    return example if one.line_time is None else {**example, "line_time": one.line_time}
