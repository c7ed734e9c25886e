"""How well scores tell odd lines from normal ones: the figures of the field, from their definitions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FALSE_ALARMS = (0.001, 0.01, 0.05)


@dataclass(frozen=True)
class Quality:
    """`recall` is by FALSE_ALARMS: the share of odd lines found when so many normal ones are flagged."""

    auroc: float
    average_precision: float
    recall: tuple[float, ...]


def judge(scores: Floats, odd: NDArray[np.bool_]) -> Quality:
    """Judge scores (n,), high for odd lines, by the truth (n,), which has both kinds."""
    return Quality(
        auroc(scores, odd),
        average_precision(scores, odd),
        tuple(recall_at(scores, odd, rate) for rate in FALSE_ALARMS),
    )


def auroc(scores: Floats, odd: NDArray[np.bool_]) -> float:
    """Return the probability that an odd line scores above a normal one, ties counting half.

    >>> auroc(np.array([1.0, 2, 3, 3]), np.array([False, True, False, True]))
    0.625
    """
    normal = np.sort(scores[~odd])
    below = normal.searchsorted(scores[odd], "left")
    up_to = normal.searchsorted(scores[odd], "right")
    return float((below + up_to).mean() / 2 / len(normal))


def average_precision(scores: Floats, odd: NDArray[np.bool_]) -> float:
    """Return the precision averaged over the odd lines' ranks; lines of equal score are taken together."""
    found, flagged = _counts(scores, odd)
    gained = np.diff(found, prepend=0)
    return float((gained * found / flagged).sum() / found[-1])


def recall_at(scores: Floats, odd: NDArray[np.bool_], rate: float) -> float:
    """Return the share of odd lines above the lowest threshold that flags at most `rate` of the normal."""
    found, flagged = _counts(scores, odd)
    normal = flagged - found
    allowed = np.flatnonzero(normal <= rate * max(1, normal[-1]) + 1e-9)
    return float(found[allowed[-1]] / found[-1]) if allowed.size else 0.0


def roc(scores: Floats, odd: NDArray[np.bool_], *, points: int = 200) -> list[tuple[float, float]]:
    """Return (false-alarm rate, recall) from (0, 0) to (1, 1), at most `points` of them."""
    found, flagged = _counts(scores, odd)
    x = np.concatenate([[0.0], (flagged - found) / (flagged - found)[-1]])
    y = np.concatenate([[0.0], found / found[-1]])
    if len(x) > points:  # evenly along the curve, which is steep at its beginning
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        chosen = np.unique(way.searchsorted(np.linspace(0, way[-1], points)).clip(0, len(x) - 1))
        x, y = x[chosen], y[chosen]
    return [(round(float(a), 6), round(float(b), 6)) for a, b in zip(x, y, strict=True)]


def _counts(scores: Floats, odd: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for each distinct score from the highest on, the odd lines and all lines that reach it."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(odd[order])[last_of_ties]
    return found, last_of_ties + 1
