"""Calibration on normal lines: a line's score, its p-value, and a threshold for a false-alarm rate.

**Score.** Each statistic of a line is compared with those of the calibration lines, as in conformal
prediction: p = (1 + #{c >= s}) / (n + 1), the share of them at least as high. Above the highest of them p
decreases like the tail of an exponential distribution. The score is a weighted mean of -log2 p (Fisher's
combination of p-values, 1925), so its unit is bits: how rare the line is among normal ones. It needs no
labels. The weights depend on how well each expert knows the calibration lines, and on the length of these
(`CalibrationBuilder._weights`).

**P-value.** The statistics are dependent, so the score is calibrated in turn: each calibration line is scored
against the others, and p = (1 + #{scores >= s}) / (n + 1). If calibration lines and new normal lines are
exchangeable, at most a share p of the new ones gets a p-value of p or less (Vovk et al. 2005). It is at least
1 / (n + 1), unless the tail of the scores fits a generalized Pareto distribution (`tail`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly.aggregate import NGRAM_STATISTICS, STATISTICS, TEMPLATE_STATISTICS, WINDOWS, statistics
from models.anomaly.tail import Tail, fit_tail
from models.errors import InvalidInput
from models.runtime.surprisal import LineSurprisal

MAX_KEPT = 100_000
"""Calibration lines whose statistics are kept; of more lines, this many evenly spaced quantiles."""

MIN_LINES = 2

MAX_EXTRAPOLATION = 100
"""A tail's p-values are at least 1 / (n + 1) divided by this; at 10 they were off by a factor of 2 to 3."""

CHARACTER_RATES = (0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Shares of normal characters whose excess exceeds the quantiles kept as thresholds for characters."""

BITS_TOLERANCE = tuple(0.03 / over for over in (*WINDOWS, 10)) * 3 + (0.001,) * len(TEMPLATE_STATISTICS)
"""Tolerance of each statistic, in bits. Lines of a log are often identical, above all when masked, and their
statistics differ by rounding, or by this much between float32 and int8: without a tolerance a line would not
reach the rank of half of its duplicates and would seem rare."""

SCORE_TOLERANCE = 0.05
"""Tolerance of the score, for changes by a few lines in the ranks."""

NETWORK_WEIGHT = (1 / 3, 0.8)
"""The minimum and maximum weight of the network, of that of network and n-grams together."""

NGRAM_WEIGHTS = (0.0, 0.0, 1.0, 1.0)
"""The relative weights of the n-grams' statistics. One rare n-gram is no evidence; several are."""

TEMPLATE_WEIGHTS = (0.3, 0.06)
"""The weights of the TEMPLATE_STATISTICS if templates left nothing open: they are multiplied by the share of
the calibration lines' tokens that templates fix."""

_TOP_SHARE, _MIN_TOP = 0.1, 10  # of the scores from which a tail that was not fitted is estimated

MAX_LINE_PER_WINDOW = 40
"""A window has its full weight in lines of up to so many times its length; in longer ones it has less. A line
of a thousand characters always has a few surprising ones, and their peak is not informative."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Calibration lines of similar length.

    Attributes:
        longest: the maximum length in characters; None: no maximum. Shorter lines are in smaller buckets.
        statistics: (k, n), each row ascending; k is 8, 12 with n-grams, or 14 with templates too. Of a
            rolling calibration n differs from that of the scores.
        spread: (k,) standard deviations of the statistics.
        weights: (k,) of the statistics in the score; they sum to 1.
        scores: (n,) ascending, of each line against the others.
        tail: the tail of the scores, if it fits.
        lines: how many lines there were, of which n are kept.
    """

    longest: int | None
    statistics: Floats
    spread: Floats
    weights: Floats
    scores: Floats
    tail: Tail | None
    lines: int

    @property
    def kept(self) -> int:
        """n, the lines that are kept."""
        return len(self.scores)

    @property
    def has_tail(self) -> bool:
        """Whether the scores have a tail, which gives p-values below 1 / (n + 1)."""
        return self.tail is not None

    @property
    def min_p_value(self) -> float:
        """The smallest possible p-value."""
        return 1 / (MAX_EXTRAPOLATION * (self.kept + 1)) if self.tail else 1 / (self.kept + 1)

    def score(self, values: Floats) -> Floats:
        """Return (m,) the scores of lines with statistics (m, k)."""
        return _rarity(values, self.statistics, self.spread) @ self.weights

    def p_value(self, scores: Floats) -> Floats:
        """Return (m,) the p-values of scores (m,)."""
        at_least = self.kept - self.scores.searchsorted(scores - SCORE_TOLERANCE, "left")
        p: Floats = (1 + at_least) / (self.kept + 1)
        if self.tail:
            beyond = at_least == 0
            extrapolated = np.maximum(self.tail.probability(scores[beyond]), self.min_p_value)
            p[beyond] = np.minimum(p[beyond], extrapolated)
        return p

    def estimated_p_value(self, scores: Floats) -> Floats:
        """Return (m,) estimates of the probability of scores (m,), also below the smallest p-value.

        Without a fitted tail, the probability above the highest calibration score decreases exponentially, by
        the mean excess of the highest tenth, or by half per bit, the unit of scores, if that is slower.
        """
        p = self.p_value(scores)
        if self.tail:
            return p
        highest = self.scores[-1]
        top = self.scores[-max(_MIN_TOP, int(self.kept * _TOP_SHARE)) :]
        scale = max(float((top - top[0]).mean()), 1 / math.log(2))
        result: Floats = p * np.exp(-np.maximum(scores - highest - SCORE_TOLERANCE, 0.0) / scale)
        return result

    def threshold(self, rate: float) -> float:
        """Return the score that normal lines exceed with probability `rate`. Raises InvalidInput."""
        rank = int(rate * (self.kept + 1) + 1e-9)
        if rank >= 1:
            return float(self.scores[-rank]) + SCORE_TOLERANCE
        if self.tail and rate >= self.min_p_value:
            return max(self.tail.quantile(rate), float(self.scores[-1]) + SCORE_TOLERANCE)
        needed = lines_needed(rate)
        raise InvalidInput(
            f"a false-alarm rate of {rate:g} needs at least {needed:,} calibration lines and there are"
            f" {self.kept:,}{'' if self.longest is None else f' of up to {self.longest} characters'};"
            f" calibrate on more normal lines, or use a rate of at least {rounded_up(self.min_p_value, 2):g}",
            code="too_few_calibration_lines",
            param="false_alarms",
        )


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model on normal lines.

    Attributes:
        buckets: by ascending length of their lines. character_excess: of each of CHARACTER_RATES, the excess
        in bits that this share of characters exceeds. characters: how many characters the lines have.
    """

    buckets: tuple[Bucket, ...]
    character_excess: tuple[float, ...]
    characters: int

    @property
    def lines(self) -> int:
        """The lines that it was made from."""
        return sum(bucket.lines for bucket in self.buckets)

    @property
    def kept_lines(self) -> int:
        """The lines whose statistics are kept."""
        return sum(bucket.kept for bucket in self.buckets)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that needs no assumption about the tail: 1 / (n + 1)."""
        return max(1 / (bucket.kept + 1) for bucket in self.buckets)

    @property
    def has_tail(self) -> bool:
        """Whether there are p-values below that."""
        return all(bucket.has_tail for bucket in self.buckets)

    def score(self, lines: Sequence[LineSurprisal]) -> tuple[Floats, Floats]:
        """Return the scores and p-values, each (n,), of n lines."""
        scores, p = np.zeros(len(lines)), np.ones(len(lines))
        if not lines:
            return scores, p
        values = statistics(lines)
        bucket_of = self.bucket_of(np.array([len(line.bits) for line in lines], np.intp))
        for i, bucket in enumerate(self.buckets):
            own = bucket_of == i
            scores[own] = bucket.score(values[own])
            p[own] = bucket.p_value(scores[own])
        return scores, p

    def p_value(self, score: float, *, characters: int) -> float:
        """Return the p-value of a score of a line of so many characters."""
        [bucket] = self.bucket_of(np.array([characters], np.intp))
        return float(self.buckets[bucket].p_value(np.array([score]))[0])

    def estimated_p_value(self, score: float, *, characters: int) -> float:
        """Return an estimate of the probability of such a score; see `Bucket.estimated_p_value`."""
        [bucket] = self.bucket_of(np.array([characters], np.intp))
        return float(self.buckets[bucket].estimated_p_value(np.array([score]))[0])

    def default_rate(self) -> float:
        """Return the default false-alarm rate: 1 %, or the smallest rate that the calibration allows."""
        return 0.01 if self.has_tail else max(0.01, self.smallest_p_value)

    def thresholds(self, rate: float) -> tuple[float, ...]:
        """Return for each bucket the score above which a line is anomalous. Raises InvalidInput."""
        return tuple(bucket.threshold(rate) for bucket in self.buckets)

    def bucket_of(self, lengths: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return (n,) the indices of the buckets of lines with lengths (n,) in characters."""
        edges = [bucket.longest for bucket in self.buckets[:-1]]
        return np.searchsorted(np.array(edges, np.intp), lengths, "left")


def lines_needed(rate: float) -> int:
    """Return how many calibration lines a false-alarm rate needs without an assumption about the tail.

    >>> lines_needed(0.01)
    99
    """
    return max(MIN_LINES, int(np.ceil(1 / rate - 1e-9)) - 1)


def rounded_up(value: float, digits: int) -> float:
    """Return a positive value rounded up to so many significant digits.

    >>> rounded_up(1 / 813, 2), rounded_up(0.25, 2)
    (0.0013, 0.25)
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


class CalibrationBuilder:
    """Makes a calibration of normal lines that are added in batches, of which only statistics are kept."""

    def __init__(self) -> None:
        self._statistics: list[Floats] = []  # (n, k) of each batch
        self._lengths: list[NDArray[np.intp]] = []
        self._excess: list[NDArray[np.float32]] = []  # of each character
        self._network_bits = self._ngram_bits = 0.0
        self._characters = 0  # with the newlines that were read
        self._fixed_shares = 0.0  # of the lines' tokens, those that templates fix
        self._lines = 0

    def add(self, lines: Sequence[LineSurprisal]) -> None:
        """Add lines, all read by the same network, and all or none of them by n-grams."""
        if not lines:
            return
        self._lines += len(lines)
        self._statistics.append(statistics(lines))
        self._lengths.append(np.array([len(line.bits) for line in lines], np.intp))
        self._excess.append(np.concatenate([line.bits - line.entropy for line in lines]))
        self._network_bits += sum(
            float(line.bits.sum(dtype=np.float64)) + line.has_end * line.end_bits for line in lines
        )
        self._ngram_bits += sum(
            float(line.ngram_bits.sum(dtype=np.float64)) for line in lines if line.ngram_bits is not None
        )
        self._characters += sum(len(line.bits) + line.has_end for line in lines)
        self._fixed_shares += sum(line.parsed.fixed_share for line in lines if line.parsed is not None)

    def build(self, *, buckets: int = 1) -> Calibration:
        """Return the calibration, with this many buckets by line length, of about equal size.

        Raises:
            InvalidInput: there are fewer than MIN_LINES lines per bucket.
        """
        if self._lines < MIN_LINES * buckets:
            raise InvalidInput(
                f"calibration needs at least {MIN_LINES * buckets} lines and got {self._lines};"
                f" a false-alarm rate of 1 % needs {lines_needed(0.01) * buckets}",
                code="too_few_calibration_lines",
                param="lines",
            )
        values = np.concatenate(self._statistics)
        lengths = np.concatenate(self._lengths)
        made = [
            _bucket(values[own], longest, self._weights(values.shape[1], float(np.median(lengths[own]))))
            for own, longest in _by_length(lengths, buckets)
        ]
        excess = np.concatenate(self._excess)
        rates = [1 - rate for rate in CHARACTER_RATES]
        quantiles = np.quantile(excess, rates) if excess.size else np.zeros(len(rates))
        return Calibration(tuple(made), tuple(map(float, quantiles)), int(excess.size))

    def _weights(self, count: int, length: float) -> Floats:
        """Return (count,) the weights of the statistics of lines of about `length` characters.

        - Between network and n-grams: larger for the one that needs fewer bits per character. One bit per
          character shifts half of the weight, within NETWORK_WEIGHT. See also NGRAM_WEIGHTS.
        - Among windows: see MAX_LINE_PER_WINDOW.
        - Of templates: the larger, the more of the lines they fix. Templates of lines without fixed words,
          such as domains or system calls, say nothing and have no weight.
        """
        windows = np.minimum(1.0, MAX_LINE_PER_WINDOW * np.array(WINDOWS) / max(length, 1.0))
        means = np.append(windows, 1.0)
        network: Floats = np.concatenate([means, means]) / (2 * means.sum())
        if count == len(STATISTICS):
            return network
        advantage = (self._ngram_bits - self._network_bits) / (2 * max(1, self._characters))
        network_weight = np.clip(0.5 + advantage, *NETWORK_WEIGHT)
        ngram = means * NGRAM_WEIGHTS
        characters = np.concatenate([network_weight * network, (1 - network_weight) * ngram / ngram.sum()])
        if count == len(STATISTICS) + len(NGRAM_STATISTICS):
            return characters
        templates = np.array(TEMPLATE_WEIGHTS) * self._fixed_shares / max(1, self._lines)
        return np.concatenate([(1 - templates.sum()) * characters, templates])


def calibrate(lines: Sequence[LineSurprisal], *, buckets: int = 1) -> Calibration:
    """Return the calibration of normal lines. Raises InvalidInput, as `CalibrationBuilder.build`."""
    builder = CalibrationBuilder()
    builder.add(lines)
    return builder.build(buckets=buckets)


def _by_length(lengths: NDArray[np.intp], buckets: int) -> list[tuple[NDArray[np.intp], int | None]]:
    """Return for each bucket the indices of its lines, and their maximum length (None for the last)."""
    edges = [int(e) for e in np.unique(np.quantile(lengths, np.arange(1, buckets) / buckets, method="lower"))]
    bucket_of = np.searchsorted(np.array(edges, np.intp), lengths, "left")
    filled = [(np.flatnonzero(bucket_of == i), edge) for i, edge in enumerate([*edges, None])]
    kept = [(own, edge) for own, edge in filled if len(own) >= MIN_LINES]
    if len(kept) < len(filled):  # one length dominates: its lines would fill several buckets
        return [(np.arange(len(lengths)), None)] if not kept or kept[-1][1] is not None else kept
    return kept


def _bucket(values: Floats, longest: int | None, weights: Floats) -> Bucket:
    ordered = np.sort(values, 0).T  # (k, n)
    spread = values.std(0)
    scores = np.sort(_leave_one_out_rarity(values, ordered, spread) @ weights)
    kept = _kept_indices(len(values))
    return Bucket(
        longest,
        np.ascontiguousarray(ordered[:, kept]),
        spread,
        weights,
        scores[kept],
        fit_tail(scores),
        len(values),
    )


def _kept_indices(lines: int) -> NDArray[np.intp]:
    if lines <= MAX_KEPT:
        return np.arange(lines)
    return np.linspace(0, lines - 1, MAX_KEPT).round().astype(np.intp)


def _rarity(values: Floats, ordered: Floats, spread: Floats) -> Floats:
    """Return (m, k) the -log2 p of statistics (m, k or more), against ordered (k, n)."""
    n = ordered.shape[1]
    columns = []
    for column, (reference, tolerance) in enumerate(zip(ordered, BITS_TOLERANCE, strict=False)):
        own = values[:, column] - tolerance
        at_least = n - reference.searchsorted(own, "left")
        columns.append(_bits(at_least, n, own - reference[-1], spread[column]))
    return _bounded(np.stack(columns, 1), values)


def _leave_one_out_rarity(values: Floats, ordered: Floats, spread: Floats) -> Floats:
    """Return (n, k) the `_rarity` of each calibration line against the others."""
    n = len(values)
    columns = []
    for column, (reference, tolerance) in enumerate(zip(ordered, BITS_TOLERANCE, strict=False)):
        own = values[:, column] - tolerance
        at_least = n - reference.searchsorted(own, "left") - 1  # without itself
        highest = np.where(values[:, column] >= reference[-1], reference[-2], reference[-1])  # of the others
        columns.append(_bits(at_least, n - 1, own - highest, spread[column]))
    return _bounded(np.stack(columns, 1), values)


def _bounded(bits: Floats, values: Floats) -> Floats:
    """Return bits (m, k) of statistics (m, k or more), those of templates at most the statistics.

    These are -log2 of a share of the training lines: a template that is frequent there may be missing among
    few calibration lines.
    """
    first = len(STATISTICS) + len(NGRAM_STATISTICS)
    bits[:, first:] = np.minimum(bits[:, first:], values[:, first : bits.shape[1]])
    return bits


def _bits(at_least: NDArray[np.intp], n: int, beyond: Floats, spread: float) -> Floats:
    """Return -log2 p where `at_least` of n are as high, with an exponential tail beyond the highest."""
    return -np.log2((1 + at_least) / (n + 1)) + np.maximum(beyond, 0.0) / (spread + _MIN_SPREAD)


_MIN_SPREAD = 0.05
"""Bits added to a spread, so that a small difference is not extremely rare if all lines are identical."""
