"""Counts the events of suggestions in Redis, each suggestion once, by one script per request.

    nextchar:acceptance:new, :old          hashes: what was received lately, by `e` or `s` and a hash of an
                                           event's id (empty), or of a suggestion's (its state)
    nextchar:acceptance:day:<name>:<day>   a hash: "<version> TAB <client> TAB <counter>" -> count, of the
                                           suggestions of a model's name that were first shown on a day, which
                                           is a number of days of Unix time; expires by retention
    nextchar:acceptance:lines:<name>:<day> a hash: text -> how many suggestions with it were accepted, of
                                           those first shown on a day, if a model's accepted lines are counted
    nextchar:acceptance:totals             a hash: "<name>@<version> TAB <counter>" -> count since the first

A suggestion's state says what has happened to it. The counters are functions of it: an event changes the
state, and each counter by what its function has changed. So a suggestion that is drawn again is shown once,
one that was accepted was shown, and neither dismissed nor replaced by typing, in whatever order the events
arrive. What a request brings is counted as a whole or not at all, and again without effect.

The two hashes are generations: what changes is written to the new one, and when that is full or old, it
becomes the old one, and the old one is deleted. So memory is bounded, and nothing is forgotten before half
the period has passed, unless there is more than fits.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from nextchar.app.acceptance.schemas import MAX_TEXT_CHARACTERS, EventCreate

PREFIX = "nextchar:acceptance:"
TOTALS = f"{PREFIX}totals"
TEXTS = f"{PREFIX}texts:"
"""The beginning of the keys of `nextchar.app.acceptance.kept_texts`."""

LINES = f"{PREFIX}lines:"

LATENCY_MS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000, 5000)
"""The upper bounds of the buckets of the histogram of latency; one more is above them."""

COUNTERS = ("shown", "accepted", "typed", "dismissed", "kept", "characters_saved", "characters_typed")

MAX_CLIENTS = 50
"""Programs that are counted apart, per model and day; the others are counted together."""

OTHER_CLIENTS = "other"

REMEMBERED_S = 2 * 86_400
"""Ids are remembered for half of this and more."""

DAY_S = 86_400

MAX_TEXTS_BYTES = 32 << 20
"""Redis memory for the texts of a model that are kept to learn from; above it, the oldest are deleted."""

MAX_DAY_LINES = 5_000
"""Accepted lines that are counted per model and day."""

MAX_LINE_CHARACTERS = 200
"""A longer accepted text is no line that is counted."""

_ENTRY_BYTES = 130  # of a field of the hashes, about
_BATCH = 50  # events per call of the script, which blocks Redis for about a millisecond

# ARGV: entries per generation, TTL of a day, TTL of a generation, that of texts, and JSON: the events, each a
# list of the ids of event and suggestion, name, version, client, type, characters saved and typed, bucket of
# latency or -1, the text that is kept, or an empty one, with its source, and the line that is counted.
_COUNT = f"""
local new, old = '{PREFIX}new', '{PREFIX}old'
local now = tonumber(redis.call('time')[1])
local began = tonumber(redis.call('hget', new, 'began'))
if began and (now - began > ARGV[3] / 2 or redis.call('hlen', new) > tonumber(ARGV[1])) then
  redis.call('rename', new, old)
  began = nil
end
if not began then
  redis.call('hset', new, 'began', now)
  redis.call('expire', new, ARGV[3])
end
local events, known, changed = cjson.decode(ARGV[5]), {{}}, {{}}
local function recall(key, fields)
  local missing, found = {{}}, redis.call('hmget', key, unpack(fields))
  for i, field in ipairs(fields) do
    if found[i] then known[field] = found[i] else missing[#missing + 1] = field end
  end
  return missing
end
local fields = {{}}
for _, event in ipairs(events) do
  fields[#fields + 1], fields[#fields + 2] = 'e' .. event[1], 's' .. event[2]
end
fields = recall(new, fields)
if #fields > 0 then recall(old, fields) end
local function remember(field, value)
  known[field], changed[#changed + 1], changed[#changed + 2] = value, field, value
end
local function one_if(condition) if condition then return 1 end return 0 end

local added = {{}}
local function add(key, field, by)
  added[key] = added[key] or {{}}
  added[key][field] = (added[key][field] or 0) + by
end
local function counted_client(key, client)
  local field = 'client\\t' .. client
  if redis.call('hexists', key, field) == 1 then return client end
  if redis.call('hincrby', key, 'clients', 1) > {MAX_CLIENTS} then return '{OTHER_CLIENTS}' end
  redis.call('hset', key, field, 1)
  return client
end

local duplicates, streams = 0, {{}}
for _, event in ipairs(events) do
  local event_id, suggestion_id, name, version, client, kind, saved, typed, bucket, text, source, line =
    unpack(event)
  local event_field, suggestion_field = 'e' .. event_id, 's' .. suggestion_id
  local before = known[suggestion_field]
  if known[event_field] then
    duplicates = duplicates + 1
  else
    local was, state, first = {{}}, {{}}, nil
    if before then
      was, first = unpack(cjson.decode(before))
      for key, value in pairs(was) do state[key] = value end
    else
      local day = math.floor(now / {DAY_S})
      first = {{day, counted_client('{PREFIX}day:' .. name .. ':' .. day, client)}}
    end
    state.s, state[string.sub(kind, 1, 1)] = 1, 1
    if kind == 'kept' then state.a = 1 end
    state.c, state.p = math.max(state.c or 0, saved), math.max(state.p or 0, typed)
    if not state.l and bucket >= 0 then state.l = bucket end
    local function count(counter, by)
      if by == 0 then return end
      add('{PREFIX}day:' .. name .. ':' .. first[1], version .. '\\t' .. first[2] .. '\\t' .. counter, by)
      add('{TOTALS}', name .. '@' .. version .. '\\t' .. counter, by)
    end
    count('shown', one_if(state.s) - one_if(was.s))
    count('accepted', one_if(state.a) - one_if(was.a))
    count('kept', one_if(state.k) - one_if(was.k))
    count('typed', one_if(state.t and not state.a) - one_if(was.t and not was.a))
    count('dismissed', one_if(state.d and not (state.a or state.t)) - one_if(was.d and not (was.a or was.t)))
    count('characters_saved', state.c - (was.c or 0))
    count('characters_typed', state.p - (was.p or 0))
    local line_key = '{LINES}' .. name .. ':' .. first[1]
    if line ~= '' and (redis.call('hexists', line_key, line) == 1
        or redis.call('hlen', line_key) < {MAX_DAY_LINES}) then
      if state.a and not was.a then add(line_key, line, 1) end
    end
    if state.l and not was.l then count('latency ' .. state.l, 1) end
    remember(event_field, '')
    remember(suggestion_field, cjson.encode({{state, first}}))
    if text ~= '' then
      local stream = '{TEXTS}' .. name
      redis.call('xadd', stream, '*', 'text', text, 'type', kind, 'source', source, 'version', version,
        'suggestion', suggestion_id)
      streams[stream] = true
    end
  end
end
if #changed > 0 then redis.call('hset', new, unpack(changed)) end
for key, fields in pairs(added) do
  for field, by in pairs(fields) do redis.call('hincrby', key, field, by) end
  if key ~= '{TOTALS}' then redis.call('expire', key, ARGV[2]) end
end
for stream, _ in pairs(streams) do
  redis.call('xtrim', stream, 'MINID', string.format('%.0f', (now - ARGV[4]) * 1000))
  while redis.call('memory', 'usage', stream) > {MAX_TEXTS_BYTES} do
    redis.call('xtrim', stream, 'MAXLEN', math.floor(redis.call('xlen', stream) * 0.9))
  end
  redis.call('expire', stream, ARGV[4])
end
return duplicates
"""


@dataclass(frozen=True)
class ResolvedEvent:
    """An event, with the name and the version of its model."""

    event: EventCreate
    name: str
    version: int


class EventCounts:
    """The counts on one Redis.

    Args:
        redis: may repeat commands.
        max_bytes: memory for what was received lately, about.
        retention_days: after which a day is deleted.
        keeps_texts_of: names of models whose accepted and typed texts are kept.
        text_days: for how long.
        counts_lines_of: names of models whose accepted lines are counted.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        max_bytes: int,
        retention_days: float,
        keeps_texts_of: Collection[str] = (),
        text_days: float = 1.0,
        counts_lines_of: Collection[str] = (),
    ) -> None:
        self._script = redis.register_script(_COUNT)
        ttls = (int(retention_days * DAY_S), REMEMBERED_S, int(text_days * DAY_S))
        self._limits = (max_bytes // _ENTRY_BYTES // 2, *ttls)
        self._keeps_texts_of, self._counts_lines_of = frozenset(keeps_texts_of), frozenset(counts_lines_of)

    async def add(self, events: Sequence[ResolvedEvent], *, owner: str) -> int:
        """Count events; return how many were received before.

        Args:
            events: all of one request; those of a call of the script are counted, or none of them.
            owner: the name of the API key, "" without one: ids of different keys are different.

        Raises redis.exceptions.RedisError: some may be counted; when they are sent again, they are not.
        """
        duplicates = 0
        for at in range(0, len(events), _BATCH):
            packed = json.dumps([self._packed(one, owner) for one in events[at : at + _BATCH]])
            duplicates += int(await self._script(args=[*self._limits, packed]))
        return duplicates

    def _packed(self, resolved: ResolvedEvent, owner: str) -> list[Any]:
        event = resolved.event
        is_accepted = event.type == "accepted"
        is_kept = (
            resolved.name in self._keeps_texts_of
            and event.type in ("accepted", "typed")
            and len(event.text or "") <= MAX_TEXT_CHARACTERS
        )
        is_line = (
            is_accepted
            and resolved.name in self._counts_lines_of
            and len(event.text or "") <= MAX_LINE_CHARACTERS
        )
        latency = event.latency_ms
        return [
            _digest(owner, event.id),
            _digest(owner, resolved.name, str(resolved.version), event.suggestion_id),
            resolved.name,
            str(resolved.version),
            event.client or "",
            event.type,
            event.characters or 0 if is_accepted else 0,
            event.typed or 0 if is_accepted else 0,
            -1 if latency is None else sum(bound < latency for bound in LATENCY_MS),
            (event.text or "") if is_kept else "",
            source_of(event.client_id) if is_kept else "",
            (event.text or "") if is_line else "",
        ]


def source_of(client_id: str | None) -> str:
    """Return the source of a client's texts; empty if the client is not known."""
    return hashlib.sha256(client_id.encode()).hexdigest()[:16] if client_id else ""


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
