"""The keys of ingested lines in Redis, and how scripts count these lines.

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
