"""Metrics of anomaly detection, from their definitions: AUROC, average precision, recall at a rate.

Baselines: simple scores of lines to compare a model with.

length              characters
punctuation         characters that are neither letters, digits nor spaces
template            rarity of the line's template (`models.text.templates`) among those of the training lines
ngram_5             mean surprisal under a Witten-Bell character 5-gram model of the training lines
isolation_forest    isolation forest (Liu et al. 2008) on tf-idf of character 1- to 3-grams
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.templates import Templates

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


NAMES = ("length", "punctuation", "template", "ngram_5", "isolation_forest")

_MAX_LINES = 20_000  # that the forest is fitted to
_MAX_FEATURES = 2_000
_MAX_LINE_CHARACTERS = 2_000  # of a line that the forest uses
_BATCH = 5_000  # lines that it scores at a time


def baseline_scores(
    train: Sequence[str], lines: Sequence[str], *, check: Callable[[], None] = lambda: None
) -> Mapping[str, Floats]:
    """Return the scores (n,) of n lines by each of NAMES, high for anomalous ones.

    Args:
        train: normal lines, at least one of them not empty.
        lines: the lines to score.
        check: called between pieces of work; what it raises ends the work.
    """
    check()
    length = np.array([len(line) for line in lines], np.float64)
    punctuation = [sum(not (c.isalnum() or c.isspace()) for c in line) for line in lines]
    check()
    templates = Templates.fit(train)
    template = [templates.parse(line).template_bits for line in lines]
    check()
    ngram = _ngram(train, lines)
    check()
    return {
        "length": length,
        "punctuation": np.array(punctuation, np.float64),
        "template": np.array(template, np.float64),
        "ngram_5": ngram,
        "isolation_forest": _isolation_forest(train, lines, check),
    }


def _ngram(train: Sequence[str], lines: Sequence[str]) -> Floats:
    model = NgramModel.fit("\n" + "\n".join(train) + "\n", order=5)
    return np.array([bits.mean() if bits.size else 0.0 for bits in model.surprisals(lines)])


def _isolation_forest(train: Sequence[str], lines: Sequence[str], check: Callable[[], None]) -> Floats:
    # Imported here: it takes half a second, and nothing else needs it.
    from sklearn.ensemble import IsolationForest
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = [line for line in train if line]
    step = -(-len(train) // _MAX_LINES)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), max_features=_MAX_FEATURES, lowercase=False, dtype=np.float32
    )
    features = vectorizer.fit_transform([line[:_MAX_LINE_CHARACTERS] for line in train[::step]])
    forest = IsolationForest(random_state=0).fit(features)
    scores = []
    for at in range(0, len(lines), _BATCH):
        check()
        batch = vectorizer.transform([line[:_MAX_LINE_CHARACTERS] for line in lines[at : at + _BATCH]])
        scores.append(-forest.score_samples(batch))
    return np.concatenate(scores) if scores else np.zeros(0)
