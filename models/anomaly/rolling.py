"""Rolling calibration: thresholds that follow normal lines while these drift slowly.

The score of a line stays the function that the stored calibration defines; only the distribution of scores
with which a new one is compared is renewed. It is that of a bounded sample of lines, the newer the likelier
(forward decay: Cormode et al. 2009), which begins with the scores of the stored calibration.

**Flagged lines are never learned.** Of a flagged line the sample has the threshold that its score exceeded,
not the score: a right-censored observation. How many there are is known, and what they may be is taken from
the lines that are not flagged: above the threshold scores decrease like an exponential distribution, whose
scale is the maximum-likelihood estimate from censored data (Epstein and Sobel 1953). So if more lines are
flagged than asked, the threshold rises until the rate is right, and if fewer are, it falls.

**Repetition is no evidence of drift**: see `nextchar.models.anomaly.flagged_evidence`.

**Guard.** Lines are learned in batches. A batch in which alerts, each counted as at most a tenth, exceed
MAX_EXCESS times the expected false alarms is dropped, with its lines that are not flagged; and a threshold
that would rise more than MAX_RISE_BITS above the stored calibration's is not used. Both are reported as
drift.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.calibration import Bucket, Calibration
from nextchar.models.anomaly.flagged_evidence import (
    counted_as_normal,
    reason_to_drop,
    without_burst,
    without_repeats,
    without_values_of_bursts,
)
from nextchar.models.anomaly.score_sample import AlertReference, ObservedScore, ScoreSample, newest
from nextchar.models.anomaly.statistic_rarity import Floats
from nextchar.models.anomaly.tail import fit_tail

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
