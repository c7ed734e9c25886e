"""Metrics of anomaly detection, from their definitions: AUROC, average precision, recall at a rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]  # True for anomalous lines

FALSE_ALARMS = (0.001, 0.01, 0.05)


@dataclass(frozen=True)
class Quality:
    """Detection metrics. `recall` is the fraction of anomalous lines found at each rate of FALSE_ALARMS."""

    auroc: float
    average_precision: float
    recall: tuple[float, ...]


def detection_quality(scores: Floats, anomalous: Labels) -> Quality:
    """Return the metrics of scores (n,), high for anomalous lines, by labels (n,) of both kinds."""
    return Quality(
        auroc(scores, anomalous),
        average_precision(scores, anomalous),
        tuple(recall_at(scores, anomalous, rate) for rate in FALSE_ALARMS),
    )


def auroc(scores: Floats, anomalous: Labels) -> float:
    """Return the probability that an anomalous line scores above a normal one; ties count half.

    >>> auroc(np.array([1.0, 2, 3, 3]), np.array([False, True, False, True]))
    0.625
    """
    normal = np.sort(scores[~anomalous])
    below = normal.searchsorted(scores[anomalous], "left")
    up_to = normal.searchsorted(scores[anomalous], "right")
    return float((below + up_to).mean() / 2 / len(normal))


def average_precision(scores: Floats, anomalous: Labels) -> float:
    """Return the precision averaged over the ranks of the anomalous lines; ties share a rank."""
    found, flagged = _counts(scores, anomalous)
    gained = np.diff(found, prepend=0)
    return float((gained * found / flagged).sum() / found[-1])


def recall_at(scores: Floats, anomalous: Labels, rate: float) -> float:
    """Return the recall at the lowest threshold that flags at most a share `rate` of the normal lines."""
    found, flagged = _counts(scores, anomalous)
    normal = flagged - found
    max_alarms = int(rate * normal[-1] + 1e-9)
    allowed = np.flatnonzero(normal <= max_alarms)
    return float(found[allowed[-1]] / found[-1]) if allowed.size else 0.0


def roc(scores: Floats, anomalous: Labels, *, points: int = 200) -> list[tuple[float, float]]:
    """Return at most `points` pairs (false-alarm rate, recall) of the ROC curve, from (0, 0) to (1, 1)."""
    found, flagged = _counts(scores, anomalous)
    x = np.concatenate([[0.0], (flagged - found) / (flagged - found)[-1]])
    y = np.concatenate([[0.0], found / found[-1]])
    if len(x) > points:  # evenly spaced along the curve, which is steep at its beginning
        distance = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        chosen = np.unique(distance.searchsorted(np.linspace(0, distance[-1], points)).clip(0, len(x) - 1))
        x, y = x[chosen], y[chosen]
    return [(a, b) for a, b in np.stack([x, y], 1).round(6).tolist()]


def _counts(scores: Floats, anomalous: Labels) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for each distinct score in descending order, how many anomalous and how many lines reach it."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(anomalous[order])[last_of_ties]
    return found, last_of_ties + 1
