"""What normal lines score, and from it: one score for a line, its p-value, and a threshold.

**The score.** Each of a line's statistics is compared with those of the calibration lines: the share of
them at least as high, as in conformal prediction, p = (1 + #{c >= s}) / (n + 1). Above the highest of them,
p goes on falling as the tail of an exponential distribution does. The score is a weighted mean of the
-log2 p (Fisher's way of combining p-values, 1925), so its unit is bits: how rare the line is among normal
ones. It takes no labels and no choice by domain: the network's statistics and the n-grams' share the weight
by which of the two reads the calibration lines in fewer bits (`_weights`).

**The p-value.** The statistics depend on each other, so the score is calibrated again: each calibration line
is scored against the others, and p = (1 + #{scores >= s}) / (n + 1). If calibration and new lines come from
one distribution, in any order, at most a share p of normal lines gets one as low as p (Vovk et al. 2005).
It is never below 1 / (n + 1), unless the scores' tail fits a generalised Pareto distribution (`tail`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly.aggregate import STATISTICS, WINDOWS, statistics
from models.anomaly.tail import Tail, fit_tail
from models.errors import InvalidInput
from models.runtime.scoring import LineSurprisal

MOST_KEPT = 100_000
"""Calibration lines whose figures are kept; of more, the quantiles at this many even places."""

FEWEST_LINES = 2

DEEPEST = 100
"""A tail is believed so many times beyond 1 / (n + 1): where it was looked at, it was off by 2 to 3 at 10."""

CHARACTER_RATES = (0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Shares of normal characters whose lowest excess is remembered, for marking odd ones."""

SAME_BITS = tuple(0.03 / over for over in (*WINDOWS, 10)) * 3
"""Differences of the statistics that say nothing, in bits. Lines of a log are often alike to the letter,
above all under masks, and their figures differ by rounding, or by as much as this between float32 and int8:
without a tolerance half of the likes of a line would not be reached by it, and it would seem rare."""

SAME_SCORE = 0.05
"""The same for the score, which a step of a few lines in the ranks can move."""

NETWORKS_SHARE = (1 / 3, 0.8)
"""The least and the most weight of the network's statistics beside the n-grams'."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Calibration lines of up to `longest` characters (None: of any length) that no smaller bucket has."""

    longest: int | None
    statistics: Floats  # (k, n) ascending, each by itself; k is 8, or 12 with n-grams
    spread: Floats  # (k,) standard deviations
    weights: Floats  # (k,) of the statistics in the score; they sum to 1
    scores: Floats  # (n,) ascending; each line's, against the others
    tail: Tail | None
    lines: int  # as many as there were; n of them are kept

    @property
    def kept(self) -> int:
        """Return n."""
        return len(self.scores)

    @property
    def deepest(self) -> float:
        """Return the smallest p-value, which a tail has: a hundredth of what the lines alone give."""
        return 1 / (DEEPEST * (self.kept + 1)) if self.tail else 1 / (self.kept + 1)

    def score(self, found: Floats) -> Floats:
        """Return (m,) the scores of lines with statistics (m, k)."""
        return _combine(found, self.statistics, self.spread, self.weights)

    def p_value(self, scores: Floats) -> Floats:
        """Return (m,) the p-values of scores (m,)."""
        reached = self.kept - self.scores.searchsorted(scores - SAME_SCORE, "left")
        p: Floats = (1 + reached) / (self.kept + 1)
        if self.tail:
            beyond = reached == 0
            deep = np.maximum(self.tail.probability(scores[beyond]), self.deepest)
            p[beyond] = np.minimum(p[beyond], deep)
        return p

    def threshold(self, rate: float) -> float:
        """Return the score that normal lines exceed with probability `rate`. Raises InvalidInput."""
        rank = int(rate * (self.kept + 1) + 1e-9)
        if rank >= 1:
            return float(self.scores[-rank]) + SAME_SCORE
        if self.tail and rate >= self.deepest:
            return max(self.tail.quantile(rate), float(self.scores[-1]) + SAME_SCORE)
        needed = lines_needed(rate)
        raise InvalidInput(
            f"a false-alarm rate of {rate:g} needs at least {needed:,} calibration lines and there are"
            f" {self.kept:,}{'' if self.longest is None else f' of up to {self.longest} characters'};"
            f" calibrate on more normal lines, or ask for at least {rounded_up(self.deepest, 2):g}",
            code="too_few_calibration_lines",
            param="false_alarms",
        )


@dataclass(frozen=True)
class Calibration:
    """What normal lines score. `character_excess` are the CHARACTER_RATES' quantiles, in bits."""

    buckets: tuple[Bucket, ...]
    character_excess: tuple[float, ...]
    characters: int

    @property
    def lines(self) -> int:
        """Return how many lines it was made from."""
        return sum(bucket.lines for bucket in self.buckets)

    @property
    def is_thinned(self) -> bool:
        """Return whether there were too many lines to keep them all."""
        return any(bucket.kept < bucket.lines for bucket in self.buckets)

    @property
    def smallest_p_value(self) -> float:
        """Return the smallest p-value that needs no assumption on the tail: 1 / (n + 1)."""
        return max(1 / (bucket.kept + 1) for bucket in self.buckets)

    @property
    def has_tail(self) -> bool:
        """Return whether p-values below that are given."""
        return all(bucket.tail for bucket in self.buckets)

    def score(self, readings: Sequence[LineSurprisal]) -> tuple[Floats, Floats]:
        """Return the scores and p-values, each (n,), of n lines."""
        scores, p = np.zeros(len(readings)), np.ones(len(readings))
        if not readings:
            return scores, p
        found = statistics(readings)
        places = self._bucket_of(np.array([len(r.bits) for r in readings], np.intp))
        for i, bucket in enumerate(self.buckets):
            mine = places == i
            scores[mine] = bucket.score(found[mine])
            p[mine] = bucket.p_value(scores[mine])
        return scores, p

    def usual_rate(self) -> float:
        """Return the false-alarm rate where none is asked for: 1 %, or the smallest that is honest."""
        return 0.01 if self.has_tail else max(0.01, self.smallest_p_value)

    def thresholds(self, rate: float) -> tuple[float, ...]:
        """Return the score above which a line is odd, of each bucket. Raises InvalidInput."""
        return tuple(bucket.threshold(rate) for bucket in self.buckets)

    def threshold_of(self, lengths: NDArray[np.intp], rate: float) -> Floats:
        """Return (n,) the threshold for each line, by its length in characters. Raises InvalidInput."""
        return np.array(self.thresholds(rate))[self._bucket_of(lengths)]

    def _bucket_of(self, lengths: NDArray[np.intp]) -> NDArray[np.intp]:
        edges = [bucket.longest for bucket in self.buckets[:-1]]
        return np.searchsorted(np.array(edges, np.intp), lengths, "left")


def lines_needed(rate: float) -> int:
    """Return how many calibration lines a false-alarm rate needs with no assumption on the tail.

    >>> lines_needed(0.01)
    99
    """
    return max(FEWEST_LINES, int(np.ceil(1 / rate - 1e-9)) - 1)


def rounded_up(value: float, digits: int) -> float:
    """Return a positive value with so many digits, and never less than it is.

    >>> rounded_up(1 / 813, 2), rounded_up(0.25, 2)
    (0.0013, 0.25)
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


class CalibrationLines:
    """Normal lines to calibrate on, added some at a time. Of each its figures are kept, not its reading."""

    def __init__(self) -> None:
        self._statistics: list[Floats] = []  # (n, k) of each addition
        self._lengths: list[NDArray[np.intp]] = []
        self._excess: list[NDArray[np.float32]] = []  # of each character
        self._network_bits = self._ngram_bits = 0.0
        self._characters = 0  # with the newlines that were read
        self.lines = 0

    def add(self, readings: Sequence[LineSurprisal]) -> None:
        """Add lines; all have been read by the same network, and by n-grams or not."""
        if not readings:
            return
        self.lines += len(readings)
        self._statistics.append(statistics(readings))
        self._lengths.append(np.array([len(r.bits) for r in readings], np.intp))
        self._excess.append(np.concatenate([r.bits - r.entropy for r in readings]))
        self._network_bits += sum(
            float(r.bits.sum(dtype=np.float64)) + r.has_end * r.end_bits for r in readings
        )
        self._ngram_bits += sum(
            float(r.ngram_bits.sum(dtype=np.float64)) for r in readings if r.ngram_bits is not None
        )
        self._characters += sum(len(r.bits) + r.has_end for r in readings)

    def calibration(self, *, buckets: int = 1) -> Calibration:
        """Return the calibration, with this many buckets by length of about equal size.

        Raises:
            InvalidInput: fewer than two lines, or than two a bucket.
        """
        if self.lines < FEWEST_LINES * buckets:
            raise InvalidInput(
                f"calibration needs at least {FEWEST_LINES * buckets} lines and got {self.lines};"
                f" a false-alarm rate of 1 % needs {lines_needed(0.01) * buckets}",
                code="too_few_calibration_lines",
                param="lines",
            )
        found = np.concatenate(self._statistics)
        weights = self._weights() if found.shape[1] > len(STATISTICS) else _EQUAL
        lengths = np.concatenate(self._lengths)
        made = [_bucket(found[mine], longest, weights) for mine, longest in _by_length(lengths, buckets)]
        excess = np.concatenate(self._excess)
        rates = [1 - rate for rate in CHARACTER_RATES]
        quantiles = np.quantile(excess, rates) if excess.size else np.zeros(len(rates))
        return Calibration(tuple(made), tuple(map(float, quantiles)), int(excess.size))

    def _weights(self) -> Floats:
        """Return (12,) the weights of the statistics: who reads normal lines in fewer bits has more.

        A bit per character more or less moves half of the weight, within NETWORKS_SHARE. Of the n-grams' the
        mean over the line counts three times, for it is where they are best. docs/anomalies.md has the study.
        """
        lead = (self._ngram_bits - self._network_bits) / (2 * max(1, self._characters))
        share = np.clip(0.5 + lead, *NETWORKS_SHARE)
        of_ngrams = np.array([1.0] * len(WINDOWS) + [3.0])
        return np.concatenate([share * _EQUAL, (1 - share) * of_ngrams / of_ngrams.sum()])


def calibrate(readings: Sequence[LineSurprisal], *, buckets: int = 1) -> Calibration:
    """Return the calibration of normal lines that were read together. Raises InvalidInput; see above."""
    lines = CalibrationLines()
    lines.add(readings)
    return lines.calibration(buckets=buckets)


def _by_length(lengths: NDArray[np.intp], buckets: int) -> list[tuple[NDArray[np.intp], int | None]]:
    """Return the places of the lines of each bucket, and the length up to which it goes."""
    edges = [int(e) for e in np.unique(np.quantile(lengths, np.arange(1, buckets) / buckets, method="lower"))]
    places = np.searchsorted(np.array(edges, np.intp), lengths, "left")
    filled = [(np.flatnonzero(places == i), edge) for i, edge in enumerate([*edges, None])]
    kept = [(mine, edge) for mine, edge in filled if len(mine) >= FEWEST_LINES]
    if len(kept) < len(filled):  # one length dominates: its lines fill several buckets
        return [(np.arange(len(lengths)), None)] if not kept or kept[-1][1] is not None else kept
    return kept


def _bucket(found: Floats, longest: int | None, weights: Floats) -> Bucket:
    ordered = np.sort(found, 0).T  # (k, n)
    spread = found.std(0)
    scores = np.sort(_score_each_by_others(found, ordered, spread, weights))
    kept = _thin(len(found))
    return Bucket(
        longest,
        np.ascontiguousarray(ordered[:, kept]),
        spread,
        weights,
        scores[kept],
        fit_tail(scores),
        len(found),
    )


def _thin(lines: int) -> NDArray[np.intp]:
    if lines <= MOST_KEPT:
        return np.arange(lines)
    return np.linspace(0, lines - 1, MOST_KEPT).round().astype(np.intp)


def _combine(found: Floats, ordered: Floats, spread: Floats, weights: Floats) -> Floats:
    """Return (m,) scores of statistics (m, k), against ordered (k, n)."""
    n = ordered.shape[1]
    total = np.zeros(len(found))
    for column, (values, same) in enumerate(zip(ordered, SAME_BITS, strict=False)):
        mine = found[:, column] - same
        reached = n - values.searchsorted(mine, "left")
        total += weights[column] * _bits(reached, n, mine - values[-1], spread[column])
    return total


def _score_each_by_others(found: Floats, ordered: Floats, spread: Floats, weights: Floats) -> Floats:
    """Return (n,) what `_combine` gives each calibration line if it is left out of the others."""
    n = len(found)
    total = np.zeros(n)
    for column, (values, same) in enumerate(zip(ordered, SAME_BITS, strict=False)):
        mine = found[:, column] - same
        reached = n - values.searchsorted(mine, "left") - 1  # but for itself
        highest = np.where(found[:, column] >= values[-1], values[-2], values[-1])  # of the others
        total += weights[column] * _bits(reached, n - 1, mine - highest, spread[column])
    return total


def _bits(reached: NDArray[np.intp], n: int, beyond: Floats, spread: float) -> Floats:
    """Return -log2 p where `reached` of n are as high, with the exponential tail beyond the highest."""
    return -np.log2((1 + reached) / (n + 1)) + np.maximum(beyond, 0.0) / (spread + _LEAST_SPREAD)


_EQUAL = np.full(len(STATISTICS), 1 / len(STATISTICS))
_LEAST_SPREAD = 0.05
"""Bits added to a spread, so that where all lines are the same a small difference is not endlessly rare."""
