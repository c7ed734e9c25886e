"""Rolling calibration of ingested lines: they are collected in Redis, and one process at a time learns them.

Each stored calibration with which ingested lines are compared has a rolling one, which is rebuilt once
REBUILD_LINES lines have come and REBUILD_S have passed since the last time, or, of few lines, after
REBUILD_MAX_S. See `nextchar.models.anomaly.rolling` for what is learned.

    nextchar:rolling:<model id>:<calibration>:lines   a list: JSON, the lines of one scored batch each
    nextchar:rolling:<model id>:<calibration>:state   a hash: lines, how many these are; since, when the first
                                                      came, in Unix seconds
    nextchar:rolling:<model id>:<calibration>:lease   the token of the process that rebuilds; expires
    nextchar:rolling:counts                           a hash: "<outcome> <model name>" -> rebuilds so far

`<calibration>` is the stored calibration that lines are compared with. The oldest lines are dropped above
MAX_BATCHES. Losing these keys loses lines that would have been learned, but no calibration.
"""

import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast

import numpy as np
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.decisions import Suppression, suppressed_until
from nextchar.app.logs.ingest.records import IngestSettings, Recalibrate
from nextchar.models.anomaly.alerts import AlertLabel
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.line_scores import (
    AlertReference,
    LineScore,
    ObservedScore,
    censored,
    initial_sample,
)
from nextchar.models.anomaly.rolling import StoredCalibration, Verdict, rebuild
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.saved_model import SavedModel
from nextchar.store import lease
from nextchar.store.calibrations import Calibrations, is_rolling_name

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

log = logging.getLogger("nextchar.api")

REBUILD_LINES = 1_000
REBUILD_S = 60.0
REBUILD_MAX_S = 6 * 3600.0
_MIN_LINES = 100


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


@dataclass
class Recalibration:
    """The rolling calibrations. `observe` raises RedisError, and as Blobs does."""

    calibrations: Calibrations
    alerts: Alerts
    lines: RollingLines
    settings: IngestSettings
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def is_rolling(self, model: str, recalibrate: Recalibrate | None) -> bool:
        """Return whether the calibration follows a line; `recalibrate` is what its request says, or None."""
        if recalibrate is not None:
            return recalibrate == "rolling"
        setting = self.settings.current(model)
        return setting is not None and setting.recalibrate == "rolling"

    def current(self, model: SavedModel, stored: StoredCalibration) -> StoredCalibration:
        """Return what a stored calibration has become: itself if nothing was learned yet."""
        if is_rolling_name(stored.name):
            return stored
        return self.calibrations.find_rolling(model, stored) or stored

    def observe(
        self, scored: Iterable[tuple[CalibratedScorer, LineReading, LineScore, AlertReference | None]]
    ) -> None:
        """Take note of lines that were scored and recorded, and rebuild their calibrations if that is due."""
        by_base: dict[tuple[str, str], tuple[SavedModel, list[ObservedScore]]] = {}
        now = time.time()
        for scorer, line, score, alert in scored:
            assert scorer.calibration is not None
            saved, rolling = scorer.loaded.saved, scorer.calibration.rolling
            base = rolling.base if rolling else scorer.calibration.name
            lines = by_base.setdefault((saved.card.id, base), (saved, []))[1]
            lines.append(observed(scorer, line, score, alert, now=now))
        for (model_id, base), (saved, lines) in by_base.items():
            if self._is_due(self.lines.add(model_id, base, lines)):
                self.rebuild(saved, base)

    def rebuild(self, saved: SavedModel, base: str) -> bool:
        """Learn the lines that wait; return False if another process does, or has just done.

        A process that was suspended for so long that its lease has expired saves nothing, because another
        one may have saved what it has learned since.
        """
        model_id, name = saved.card.id, saved.card.name
        if not self.lines.acquire_lease(model_id, base, self.token):
            return False
        try:
            waiting = self.lines.waiting(model_id, base)
            stored = self.calibrations.get(saved, base)
            if not (stored and waiting and self._is_due(waiting)):
                return False
            labels, suppressions = self.alerts.labels(name), self.alerts.decisions.suppressions(name)
            current = self.current(saved, stored)
            random = np.random.default_rng()
            # Taken first: if this process dies now, these lines are not learned, rather than twice.
            lines = self.lines.take(model_id, base, self.token)
            if not lines:
                return False
            rolling, now = current.rolling, time.time()
            calibration, sample, result = rebuild(
                stored.calibration,
                current.calibration,
                rolling.sample if rolling else initial_sample(stored.calibration, now=now, random=random),
                lines,
                verdict=partial(verdict, labels=labels, suppressions=suppressions),
                rate=stored.calibration.default_rate(),
                now=now,
                random=random,
            )
            if not self.lines.renew_lease(model_id, base, self.token):
                log.warning(
                    "ingested lines of %s were not learned, because that took longer than %d s; calibrate the"
                    " model again if this goes on",
                    name,
                    LEASE_S,
                )
                return False
            rebuilds = (*(rolling.rebuilds if rolling else ()), result)
            self.calibrations.save_rolling(saved, stored, calibration, sample, rebuilds)
            self.lines.count(name, "held" if result.drift else "rebuilt")
            return True
        finally:
            self.lines.release_lease(model_id, base, self.token)

    def _is_due(self, waiting: Waiting) -> bool:
        waited_s = time.time() - waiting.since
        if waited_s >= REBUILD_MAX_S:
            return waiting.lines >= _MIN_LINES
        return waiting.lines >= REBUILD_LINES and waited_s >= REBUILD_S


def observed(
    scorer: CalibratedScorer, line: LineReading, score: LineScore, alert: AlertReference | None, *, now: float
) -> ObservedScore:
    """Return what may be learned of a scored line; `alert` is that of a flagged one."""
    assert scorer.calibration is not None and scorer.rate is not None and score.score is not None
    lengths = np.array([len(line.masked.text)], np.intp)
    bucket = int(scorer.calibration.calibration.bucket_of(lengths)[0])
    if not score.anomalous:
        return ObservedScore(now, score.score, bucket, scorer.rate)
    assert alert is not None, "flagged lines have an alert"
    return ObservedScore(now, censored(scorer.thresholds[bucket]), bucket, scorer.rate, alert)


def verdict(
    alert: AlertReference, *, labels: Mapping[str, AlertLabel], suppressions: Sequence[Suppression]
) -> Verdict:
    """Return what people say of an alert."""
    label = labels.get(alert.alert_id)
    if label:
        return "normal" if label.label == "normal" else "excluded"
    until = suppressed_until(suppressions, alert.template, alert.span, now=time.time())
    return "unknown" if until is None else "excluded"
