"""Rolling calibration: thresholds that follow normal lines while these drift slowly.

The score of a line stays the function that the stored calibration defines; only the distribution of scores
with which a new one is compared is renewed. It is that of a bounded sample of lines, the newer the likelier
(forward decay: Cormode et al. 2009), which begins with the scores of the stored calibration.

**Flagged lines are never learned.** Of a flagged line the sample has the threshold that its score exceeded,
not the score: a right-censored observation. How many there are is known, and what they may be is taken from
the lines that are not flagged: above the threshold scores decrease like an exponential distribution, whose
scale is the maximum-likelihood estimate from censored data (Epstein and Sobel 1953). So if more lines are
flagged than asked, the threshold rises until the rate is right, and if fewer are, it falls.

**Guard.** Lines are learned in batches. A batch in which alerts, each counted as at most a tenth, exceed
MAX_EXCESS times the expected false alarms is dropped, with its lines that are not flagged; and a threshold
that would rise more than MAX_RISE_BITS above the stored calibration's is not used. Both are reported as
drift.

**Repetition is no evidence of drift.** For raising the threshold, one alert counts for at most a tenth of the
false alarms that are expected: an incident of many equal lines does not move it. If the anomalous word is a
value of a known template, such as a user, each value counts for at most half of them: new users are drift,
and one alone moves nothing. An alert that comes in a burst, or was first seen less than MIN_DRIFT_S ago, has
no values in this sense; and if the flagged lines without values come in a burst, whatever their alerts are,
it is left out. For lowering it, all other flagged lines count. A difference within the noise, a standard
deviation, changes nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.calibration import Bucket, Calibration
from nextchar.models.anomaly.line_scores import AlertReference, ObservedScore, ScoreSample, newest
from nextchar.models.anomaly.tail import Floats, fit_tail

MAX_EXCESS = 3.0
"""A batch with more flagged lines than this many times the expected ones, and noise, is not learned."""

MIN_DRIFT_S = 6 * 3600.0
"""The time after an alert's first line in the sample from which its values count apart."""

_NOISE = 3.0  # standard deviations above MAX_EXCESS
_FRACTION_OF_ALERT = 0.1  # of the expected false alarms, for one alert
_FRACTION_OF_VALUE = 0.5  # for one value of an alert that has values: one alone does not raise a threshold
_MIN_PER_ALERT = 2
_BURST_FRACTION = 0.1  # of the lines
_MIN_BURST = 6  # flagged lines


def reason_to_drop(batch: Sequence[ObservedScore]) -> str | None:
    """Return why a batch is not learned, which has too many flagged lines; None: it is learned."""
    expected = sum(line.rate for line in batch)
    counted = len(_limited([_without_value(line) for line in batch], expected))
    if counted <= MAX_EXCESS * expected + _NOISE * math.sqrt(max(expected, 1.0)):
        return None
    return (
        f"{counted:,} of {len(batch):,} lines were flagged (repeats counted a few times) but only"
        f" {expected:.0f} were expected: an incident, or the lines have changed. The calibration was not"
        " updated. If they are normal, label or suppress their alerts, or calibrate on recent lines."
    )


def without_repeats(batch: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return a batch in which flagged lines repeat at most as often as false alarms could."""
    expected = sum(line.rate for line in batch if line.alert is None)
    counted = _first_limited(batch, expected, math.ceil(expected + 2 * math.sqrt(expected)))
    return [*(line for line in batch if line.alert is None), *counted]


def _first_limited(lines: Sequence[ObservedScore], expected: float, count: int) -> list[ObservedScore]:
    """Return the `_limited` of lines, and more flagged ones while there are fewer than `count`."""
    limited = _limited(lines, expected)
    chosen = {id(line) for line in limited}
    others = [line for line in lines if line.alert and id(line) not in chosen]
    return [*limited, *others[: max(0, count - len(limited))]]


def _limited(lines: Sequence[ObservedScore], expected: float) -> list[ObservedScore]:
    """Return flagged ones of lines in order: of each alert the last few, or of each of its values."""
    of_alert = max(_MIN_PER_ALERT, math.ceil(_FRACTION_OF_ALERT * expected))
    of_value = max(_MIN_PER_ALERT, math.ceil(_FRACTION_OF_VALUE * expected))
    counts: dict[tuple[str, str], int] = {}
    chosen = []
    for line in reversed(lines):
        if not line.alert:
            continue
        key = line.alert.alert_id, line.alert.value
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= (of_value if line.alert.value else of_alert):
            chosen.append(line)
    return chosen


def without_values_of_bursts(batch: Sequence[ObservedScore], sample: ScoreSample) -> list[ObservedScore]:
    """Return a batch in which alerts that are bursts or new have no values, so that each counts as one."""
    positions: dict[str, list[int]] = {}
    for i, line in enumerate(batch):
        if line.alert:
            positions.setdefault(line.alert.alert_id, []).append(i)
    first_seen: dict[str, float] = {}
    for line in (*sample.lines, *batch):
        if line.alert:
            alert_id = line.alert.alert_id
            first_seen[alert_id] = min(line.time, first_seen.get(alert_id, line.time))
    alike = {
        alert_id
        for alert_id, own in positions.items()
        if _is_burst(own, len(batch)) or batch[own[-1]].time - first_seen[alert_id] < MIN_DRIFT_S
    }
    return [_without_value(line) if line.alert and line.alert.alert_id in alike else line for line in batch]


def without_burst(batch: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return a batch without its burst of flagged lines that have no values, if it has one: an incident."""
    positions = [i for i, line in enumerate(batch) if line.alert and not line.alert.value]
    if not _is_burst(positions, len(batch)):
        return list(batch)
    most = len(positions) // 2
    start, _ = min(zip(positions, positions[most:], strict=False), key=lambda pair: pair[1] - pair[0])
    end = start + _BURST_FRACTION * len(batch)
    burst = {i for i in positions if start <= i <= end}
    return [line for i, line in enumerate(batch) if i not in burst]


def _without_value(line: ObservedScore) -> ObservedScore:
    return replace(line, alert=replace(line.alert, value="")) if line.alert else line


def _is_burst(positions: Sequence[int], lines: int) -> bool:
    """Return whether more than half of the ascending positions are within _BURST_FRACTION of the lines."""
    most = len(positions) // 2
    width = _BURST_FRACTION * lines
    return len(positions) >= _MIN_BURST and any(
        end - start <= width for start, end in zip(positions, positions[most:], strict=False)
    )


def counted_as_normal(lines: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return the flagged lines that count as normal: about as many as expected, if that agrees with them."""
    expected = sum(line.rate for line in lines)
    limited = _limited(lines, expected)
    if len(limited) > expected + math.sqrt(expected):
        return limited
    return _first_limited(lines, expected, round(expected))[: round(expected)]


MAX_RISE_BITS = 4.0
"""The most by which a threshold may exceed that of the stored calibration: then normal lines that reach it
were flagged about sixteen times as often. Beyond that, lines are too different for its scores."""

_TAIL_FRACTION = 0.1
_SCALE = (0.2, 1.5)  # the least and the greatest scale of the tail in bits; one bit per halving is 1.44

Verdict = Literal["unknown", "normal", "excluded"]
"""The decision on an alert: none, that it is normal, or that it is an incident or suppressed."""


@dataclass(frozen=True)
class Rebuild:
    """The result of a batch.

    Attributes:
        at: when, in Unix seconds. lines, flagged: of the batch. learned: its lines that were not flagged or
        that people call normal; 0 if it was dropped. rate: the false-alarm rate of the thresholds.
        old_thresholds, new_thresholds: of each bucket. drift: why nothing was learned, or None.
    """

    at: float
    lines: int
    learned: int
    flagged: int
    rate: float
    old_thresholds: tuple[float, ...]
    new_thresholds: tuple[float, ...]
    drift: str | None = None


@dataclass(frozen=True)
class Rolling:
    """What a rolling calibration is made from.

    Attributes:
        base, base_created_at: the stored calibration that it began with. sample: of lines.
        rebuilds: the newest last.
    """

    base: str
    base_created_at: int
    sample: ScoreSample
    rebuilds: tuple[Rebuild, ...]

    @property
    def drift(self) -> str | None:
        """Why the newest lines were not learned, None if they were."""
        return self.rebuilds[-1].drift if self.rebuilds else None


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration with its name, creation time (Unix seconds) and a description of its source.

    `rolling` is None for one that does not roll.
    """

    name: str
    calibration: Calibration
    created_at: int
    source: str
    rolling: Rolling | None = None


def rebuild(
    stored: Calibration,
    current: Calibration,
    sample: ScoreSample,
    batch: Sequence[ObservedScore],
    *,
    verdict: Callable[[AlertReference], Verdict],
    rate: float,
    now: float,
    random: np.random.Generator,
) -> tuple[Calibration, ScoreSample, Rebuild]:
    """Learn a batch of lines, and return the calibration for later ones.

    Args:
        stored: the calibration that defines scores.
        current: the one in use.
        sample: of the lines learned so far.
        batch: the lines since.
        verdict: what people say of an alert.
        rate: the false-alarm rate for which thresholds are reported and limited.
        now: the time, in Unix seconds.
        random: chooses which lines stay in the sample.

    Raises:
        InvalidInput: `stored` does not allow the rate.
    """
    before = current.thresholds(rate)
    flagged = sum(line.alert is not None for line in batch)
    verdicts = _verdicts((*sample.lines, *batch), verdict)
    judged = _judged(batch, verdicts)
    result = Rebuild(now, len(batch), 0, flagged, rate, before, before)
    if drift := reason_to_drop(judged):
        return current, sample, replace(result, drift=drift)
    kept = [i for i, line in enumerate(sample.lines) if _is_kept(line, verdicts)]
    known = ScoreSample(tuple(_judged(sample.lines, verdicts)), sample.keys[kept])
    learnable = without_burst(without_values_of_bursts(judged, sample))
    grown = newest(known, without_repeats(learnable), random)
    made = _calibration(stored, grown, rate)
    after = made.thresholds(rate)
    limits = np.array(stored.thresholds(rate)) + MAX_RISE_BITS
    if (np.array(after) > limits).any():
        drift = (
            f"The threshold would rise more than {MAX_RISE_BITS:g} bits above that of the stored calibration."
            " If these lines are normal, calibrate on recent ones or train again."
        )
        return current, sample, replace(result, drift=drift)
    learned = sum(line.alert is None for line in judged)
    return made, grown, replace(result, learned=learned, new_thresholds=after)


def _verdicts(
    lines: Sequence[ObservedScore], verdict: Callable[[AlertReference], Verdict]
) -> Mapping[str, Verdict]:
    alerts = {line.alert.alert_id: line.alert for line in lines if line.alert}
    return {alert_id: verdict(alert) for alert_id, alert in alerts.items()}


def _is_kept(line: ObservedScore, verdicts: Mapping[str, Verdict]) -> bool:
    return line.alert is None or verdicts[line.alert.alert_id] != "excluded"


def _judged(lines: Sequence[ObservedScore], verdicts: Mapping[str, Verdict]) -> list[ObservedScore]:
    """Return lines without those of excluded alerts; those of normal ones get the score of their label."""
    return [
        replace(line, score=0.0, alert=None)
        if line.alert and verdicts[line.alert.alert_id] == "normal"
        else line
        for line in lines
        if _is_kept(line, verdicts)
    ]


def _calibration(stored: Calibration, sample: ScoreSample, rate: float) -> Calibration:
    """Return the calibration by a sample; a bucket with too few lines for the rate stays the stored one."""
    buckets = []
    for index, bucket in enumerate(stored.buckets):
        made = _bucket(bucket, [line for line in sample.lines if line.bucket == index])
        buckets.append(made if made.kept and made.min_p_value <= rate else bucket)
    return replace(stored, buckets=tuple(buckets))


def _bucket(stored: Bucket, lines: Sequence[ObservedScore]) -> Bucket:
    """Return a bucket that scores as the stored one and compares with the scores of these lines."""
    normal = np.sort(np.array([line.score for line in lines if line.alert is None], np.float64))
    levels = np.array([line.score for line in counted_as_normal(lines)], np.float64)
    scores = normal
    if len(levels):
        fractions = np.arange(len(levels)) / len(levels)
        excesses = -_tail_scale(normal, levels) * np.log1p(-fractions)
        scores = np.sort(np.concatenate([normal, np.sort(levels) + excesses]))
    return replace(stored, scores=scores, tail=fit_tail(scores), lines=len(scores))


def _tail_scale(normal: Floats, levels: Floats) -> float:
    """Return the scale of the exponential tail, from scores and the levels that censored ones exceed."""
    every = np.concatenate([normal, levels])
    start = min(float(np.quantile(every, 1 - _TAIL_FRACTION)), float(levels.min()))
    uncensored: NDArray[np.bool_] = normal > start
    total = float(np.maximum(every - start, 0.0).sum())
    return float(np.clip(total / max(1, int(uncensored.sum())), *_SCALE))
