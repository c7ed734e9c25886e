"""Figures of a line, from the surprisal of its characters: eight of the network's, four of the n-grams'.

No one aggregate finds every kind of oddness: a foreign text raises the mean, a wrong token some adjacent
characters, a forbidden character one. So the highest mean over 1, 3 and 12 adjacent characters and the mean
over the line are all taken, twice: of the surprisal itself, and of its excess over what the network expected
to be surprised by (the entropy of its prediction), so that a random id, which no model can foresee, does not
count as odd. Of the n-grams' surprisal, where the model has them, the four are taken once. How they become
one score is in `models.anomaly.calibration`. docs/anomalies.md has the study.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.runtime.scoring import LineSurprisal

WINDOWS = (1, 3, 12)
"""Adjacent characters over which means are taken; beside them the whole line."""

_MEANS = (*map(str, WINDOWS), "line")
STATISTICS = tuple(f"{what}_{over}" for what in ("bits", "excess") for over in _MEANS)
"""The names of the columns of `statistics`."""

NGRAM_STATISTICS = tuple(f"ngram_{over}" for over in _MEANS)
"""Those of the columns behind them, of a model with n-grams."""


def statistics(readings: Sequence[LineSurprisal]) -> NDArray[np.float64]:
    """Return (n, 8) the STATISTICS of n lines, in bits; the newline behind a line counts as a character.

    With the NGRAM_STATISTICS behind them, (n, 12), if all lines were read by n-grams, too. A line shorter
    than a window is taken as if it were filled up with characters of 0 bits. A line with nothing to count
    gets zeros.
    """
    has_ngram = bool(readings) and all(r.ngram_bits is not None for r in readings)
    names = STATISTICS + NGRAM_STATISTICS if has_ngram else STATISTICS
    lengths = np.array([_counted(r) for r in readings], np.intp)
    found = np.zeros((len(readings), len(names)))
    if not lengths.any():
        return found
    bits = np.concatenate([_with_end(r.bits, r.end_bits, r) for r in readings]).astype(np.float64)
    entropy = np.concatenate([_with_end(r.entropy, r.end_entropy, r) for r in readings])
    read = [bits, bits - entropy]
    if has_ngram:
        read.append(np.concatenate([r.ngram_bits for r in readings if r.ngram_bits is not None], dtype=float))
    for first, values in zip(range(0, len(names), len(_MEANS)), read, strict=True):
        for column, window in enumerate(WINDOWS, first):
            found[:, column] = _highest_means(values, lengths, window)
        found[:, first + len(WINDOWS)] = _sums(values, lengths) / np.maximum(lengths, 1)
    return found


def peak_bits(bits: NDArray[np.float32], count: int = 2) -> float:
    """Return the mean of the `count` highest of bits (N,), of all where N is smaller; 0 if there is none.

    >>> peak_bits(np.array([1, 9, 2, 5], np.float32))
    7.0
    """
    if not bits.size:
        return 0.0
    count = min(count, bits.size)
    return float(np.partition(bits, -count)[-count:].mean(dtype=np.float64))


def _counted(reading: LineSurprisal) -> int:
    return len(reading.bits) + reading.has_end


def _with_end(values: NDArray[np.float32], end: float, reading: LineSurprisal) -> NDArray[np.float32]:
    return np.append(values, np.float32(end)) if reading.has_end else values


def _sums(values: NDArray[np.float64], lengths: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (n,) the sum over each line's part of values (sum of lengths,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    result: NDArray[np.float64] = total[ends] - total[ends - lengths]
    return result


def _highest_means(
    values: NDArray[np.float64], lengths: NDArray[np.intp], window: int
) -> NDArray[np.float64]:
    """Return (n,) the highest mean over `window` adjacent values within each line."""
    result = _sums(values, lengths) / window  # right for lines no longer than the window
    long = np.flatnonzero(lengths > window)
    if not long.size:
        return result
    ends = np.cumsum(lengths)
    starts = ends - lengths
    total = np.concatenate([[0.0], np.cumsum(values)])
    means = (total[window:] - total[:-window]) / window  # (of the window that begins at each place)
    # reduceat takes places from, to; the windows between two lines are skipped by every second cut.
    cuts = np.stack([starts[long], ends[long] - window + 1], 1).ravel()
    means = np.append(means, -np.inf)  # so that the last cut is a place, too
    result[long] = np.maximum.reduceat(means, cuts)[::2]
    return result
