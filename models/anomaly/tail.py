"""The tail of calibration scores beyond the largest observed: a generalized Pareto distribution, if it fits.

Peaks over threshold: above a threshold u, excesses y follow P(Y > y) = (1 + xi y / sigma)^(-1 / xi), or
exp(-y / sigma) for xi = 0 (Pickands 1975). Fitted by probability-weighted moments (Hosking and Wallis 1987),
which are stable on small samples. Goodness of fit is tested by the Anderson-Darling distance with a
parametric bootstrap, because the parameters are estimated from the same data.

How rare each statistic of a line is among those of calibration lines, in bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import (
    NGRAM_STATISTICS,
    STATISTICS,
    TEMPLATE_STATISTICS,
    WINDOWS,
    WORD_STATISTICS,
)

MIN_EXCESSES = 50
"""No tail is fitted to fewer: they cannot show a bad fit."""

TAIL_FRACTION = 0.1
"""The fraction of the highest scores to which the tail is fitted; at most MAX_EXCESSES of them."""

MAX_EXCESSES = 2000
SIGNIFICANCE = 0.05
"""A fit with a smaller p-value is rejected."""

_BOOTSTRAPS = 200
_MIN_PROBABILITY = 1e-12  # so that each has a logarithm


@dataclass(frozen=True)
class Tail:
    """P(S > s) = share * (1 + shape * (s - start) / scale)^(-1 / shape) for s above `start`."""

    start: float
    share: float  # of the scores that exceed `start`
    shape: float  # xi
    scale: float  # sigma
    fit_p: float  # p-value of the goodness of fit

    def probability(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return P(S > s) for scores s above `start`."""
        return self.share * _survival(np.maximum(s - self.start, 0.0), self.shape, self.scale)

    def quantile(self, probability: float) -> float:
        """Return the score that is exceeded with `probability`, which is at most `share`."""
        excess = _quantile(np.array(probability / self.share), self.shape, self.scale)
        return self.start + float(excess)


def fit_tail(scores: NDArray[np.float64]) -> Tail | None:
    """Return the tail of ascending scores (n,); None if they are too few or the fit is rejected."""
    count = min(int(len(scores) * TAIL_FRACTION), MAX_EXCESSES)
    if count < MIN_EXCESSES:
        return None
    start = float(scores[-count - 1])
    excesses = scores[-count:] - start
    if excesses[0] <= 0 or len(np.unique(excesses)) < MIN_EXCESSES // 2:  # mostly ties: not a continuous tail
        return None
    shape, scale = _fit(excesses)
    distance = _anderson_darling(excesses, shape, scale)
    random = np.random.default_rng(0)
    worse = 0
    for _ in range(_BOOTSTRAPS):
        drawn = np.sort(_quantile(1 - random.random(count), shape, scale))
        worse += _anderson_darling(drawn, *_fit(drawn)) >= distance
    fit_p = (1 + worse) / (1 + _BOOTSTRAPS)
    if fit_p < SIGNIFICANCE:
        return None
    return Tail(start, count / len(scores), shape, scale, fit_p)


_NEARLY_0 = 1e-6


def _fit(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Return (shape, scale) by probability-weighted moments of ascending excesses (n,)."""
    n = len(excesses)
    mean = float(excesses.mean())
    # a1 estimates E[Y (1 - F(Y))], with plotting positions (i - 0.35) / n.
    a1 = float(((1 - (np.arange(1, n + 1) - 0.35) / n) * excesses).mean())
    shape = 2 - mean / (mean - 2 * a1)
    scale = 2 * mean * a1 / (mean - 2 * a1)
    if shape < 0 and excesses[-1] >= -scale / shape:  # the largest lies beyond the end of the distribution
        return 0.0, mean
    return shape, scale


def _survival(y: NDArray[np.float64], shape: float, scale: float) -> NDArray[np.float64]:
    if abs(shape) < _NEARLY_0:
        return np.exp(-y / scale)
    result: NDArray[np.float64] = np.maximum(1 + shape * y / scale, 0.0) ** (-1 / shape)
    return result


def _quantile(probability: NDArray[np.float64], shape: float, scale: float) -> NDArray[np.float64]:
    """Return the excesses that are exceeded with these probabilities."""
    if abs(shape) < _NEARLY_0:
        return -scale * np.log(probability)
    result: NDArray[np.float64] = scale / shape * (probability**-shape - 1)
    return result


def _anderson_darling(excesses: NDArray[np.float64], shape: float, scale: float) -> float:
    """Return the distance of ascending excesses from the distribution (Anderson and Darling 1954)."""
    n = len(excesses)
    above = _survival(excesses, shape, scale)
    weights = 2 * np.arange(1, n + 1) - 1
    return float(-n - (weights * (_log(1 - above) + _log(above[::-1]))).mean())


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities, _MIN_PROBABILITY))


BITS_TOLERANCE = tuple(0.03 / over for over in (*WINDOWS, 10)) * 3 + (0.001,) * len(
    TEMPLATE_STATISTICS + WORD_STATISTICS
)
"""Tolerance of each statistic, in bits. Lines of a log are often identical, above all when masked, and their
statistics differ by rounding, or by this much between float32 and int8: without a tolerance a line would not
reach the rank of half of its duplicates and would seem rare."""

_MIN_SPREAD = 0.05
"""Bits added to a spread, so that a small difference is not extremely rare if all lines are identical."""

Floats = NDArray[np.float64]


def rarity(values: Floats, ordered: Floats, spread: Floats) -> Floats:
    """Return (m, k) the -log2 p of statistics (m, k or more), against ordered (k, n)."""
    n = ordered.shape[1]
    columns = []
    for column, (reference, tolerance) in enumerate(zip(ordered, BITS_TOLERANCE, strict=False)):
        own = values[:, column] - tolerance
        at_least = n - reference.searchsorted(own, "left")
        columns.append(_bits(at_least, n, own - reference[-1], spread[column]))
    return _bounded(np.stack(columns, 1), values)


def leave_one_out_rarity(values: Floats, ordered: Floats, spread: Floats) -> Floats:
    """Return (n, k) the `rarity` of each calibration line against the others."""
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
    templates = slice(first, min(first + len(TEMPLATE_STATISTICS), bits.shape[1]))
    bits[:, templates] = np.minimum(bits[:, templates], values[:, templates])
    return bits


def _bits(at_least: NDArray[np.intp], n: int, beyond: Floats, spread: float) -> Floats:
    """Return -log2 p where `at_least` of n are as high, with an exponential tail beyond the highest."""
    return -np.log2((1 + at_least) / (n + 1)) + np.maximum(beyond, 0.0) / (spread + _MIN_SPREAD)
