"""How rare each statistic of a line is among those of calibration lines, in bits."""

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import NGRAM_STATISTICS, STATISTICS, TEMPLATE_STATISTICS, WINDOWS

BITS_TOLERANCE = tuple(0.03 / over for over in (*WINDOWS, 10)) * 3 + (0.001,) * len(TEMPLATE_STATISTICS)
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
    bits[:, first:] = np.minimum(bits[:, first:], values[:, first : bits.shape[1]])
    return bits


def _bits(at_least: NDArray[np.intp], n: int, beyond: Floats, spread: float) -> Floats:
    """Return -log2 p where `at_least` of n are as high, with an exponential tail beyond the highest."""
    return -np.log2((1 + at_least) / (n + 1)) + np.maximum(beyond, 0.0) / (spread + _MIN_SPREAD)
