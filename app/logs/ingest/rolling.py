"""Lines that rolling calibrations have not learned yet, and who learns them, in Redis.

    nextchar:rolling:<model id>:<calibration>:lines   a list: JSON, the lines of one scored batch each
    nextchar:rolling:<model id>:<calibration>:state   a hash: lines, how many these are; since, when the first
                                                      came, in Unix seconds
    nextchar:rolling:<model id>:<calibration>:lease   the token of the process that rebuilds; expires
    nextchar:rolling:counts                           a hash: "<outcome> <model name>" -> rebuilds so far

`<calibration>` is the stored calibration that lines are compared with. The oldest lines are dropped above
MAX_BATCHES. Losing these keys loses lines that would have been learned, but no calibration.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from redis import Redis

from nextchar.models.anomaly.score_sample import AlertReference, ObservedScore
from nextchar.store import lease

Outcome = Literal["rebuilt", "held"]
"""`held`: the calibration stays as it was, because the lines have drifted. Both names are in metrics."""

MAX_BATCHES = 200
LEASE_S = 60
"""A process that has not finished a rebuild after this long counts as dead."""

_KEEP_S = 7 * 86_400
_PREFIX = "nextchar:rolling:"
_COUNTS = f"{_PREFIX}counts"
_ADD = f"""
redis.call('rpush', KEYS[1], ARGV[1])
local added = tonumber(ARGV[2])
while redis.call('llen', KEYS[1]) > {MAX_BATCHES} do
  added = added - #cjson.decode(redis.call('lpop', KEYS[1]))
end
local lines = redis.call('hincrby', KEYS[2], 'lines', added)
redis.call('hsetnx', KEYS[2], 'since', ARGV[3])
redis.call('expire', KEYS[1], {_KEEP_S})
redis.call('expire', KEYS[2], {_KEEP_S})
return {{lines, redis.call('hget', KEYS[2], 'since')}}
"""
# Takes all lines, if the lease is still held.
_TAKE = """
if redis.call('get', KEYS[3]) ~= ARGV[1] then return false end
local batches = redis.call('lrange', KEYS[1], 0, -1)
redis.call('del', KEYS[1], KEYS[2])
return batches
"""


@dataclass(frozen=True)
class Waiting:
    """How many lines wait to be learned, and since when, in Unix seconds."""

    lines: int
    since: float


class RollingLines:
    """The lines to be learned in one Redis (with `decode_responses=True`). Its methods raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, model_id: str, calibration: str, lines: Sequence[ObservedScore]) -> Waiting:
        """Add scored lines; return how many wait now."""
        keys = [_key(model_id, calibration, name) for name in ("lines", "state")]
        data = json.dumps([_dump(line) for line in lines])
        added = self._redis.eval(_ADD, 2, *keys, data, str(len(lines)), repr(time.time()))
        count, since = cast(list[str], added)
        return Waiting(int(count), float(since))

    def waiting(self, model_id: str, calibration: str) -> Waiting | None:
        """Return how many lines wait now; None if there are none."""
        state = cast(dict[str, str], self._redis.hgetall(_key(model_id, calibration, "state")))
        return Waiting(int(state["lines"]), float(state["since"])) if "since" in state else None

    def acquire_lease(self, model_id: str, calibration: str, token: str) -> bool:
        """Acquire the lease to rebuild a calibration; return whether it was acquired."""
        return lease.acquire(self._redis, _key(model_id, calibration, "lease"), token, LEASE_S)

    def renew_lease(self, model_id: str, calibration: str, token: str) -> bool:
        """Renew the lease if `token` still holds it; return whether it does."""
        return lease.renew(self._redis, _key(model_id, calibration, "lease"), token, LEASE_S)

    def release_lease(self, model_id: str, calibration: str, token: str) -> None:
        """Release the lease if `token` holds it."""
        lease.release(self._redis, _key(model_id, calibration, "lease"), token)

    def take(self, model_id: str, calibration: str, token: str) -> list[ObservedScore]:
        """Remove and return the lines that wait; none if the lease has expired."""
        keys = [_key(model_id, calibration, name) for name in ("lines", "state", "lease")]
        batches = cast(list[str] | None, self._redis.eval(_TAKE, 3, *keys, token))
        return [_load(record) for batch in batches or () for record in json.loads(batch)]

    def forget(self, model_id: str, calibration: str) -> None:
        """Drop the lines that wait, because the calibration that they were compared with is replaced."""
        self._redis.delete(*(_key(model_id, calibration, name) for name in ("lines", "state")))

    def count(self, model: str, outcome: Outcome) -> None:
        """Count a rebuild of a calibration of the model with this name."""
        self._redis.hincrby(_COUNTS, f"{outcome} {model}", 1)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of rebuilds so far, by model and outcome."""
        counts = cast(dict[str, str], self._redis.hgetall(_COUNTS))
        names = {name: name.partition(" ") for name in counts}
        return {(model, outcome): int(counts[name]) for name, (outcome, _, model) in names.items()}


def _key(model_id: str, calibration: str, name: str) -> str:
    return f"{_PREFIX}{model_id}:{calibration}:{name}"


def _dump(line: ObservedScore) -> list[float | str]:
    fields: list[float | str] = [round(line.time, 3), line.score, line.bucket, line.rate]
    alert = line.alert
    return [*fields, alert.alert_id, alert.template, alert.span, alert.value] if alert else fields


def _load(fields: list[float | str]) -> ObservedScore:
    at, score, bucket, rate = map(float, fields[:4])
    return ObservedScore(
        at, score, int(bucket), rate, AlertReference(*map(str, fields[4:])) if fields[4:] else None
    )
