"""Baselines: simple scores of lines to compare a model with.

length              characters
punctuation         characters that are neither letters, digits nor spaces
template            rarity of the line's template (`models.text.templates`) among those of the training lines
ngram_5             mean surprisal under a Witten-Bell character 5-gram model of the training lines
isolation_forest    isolation forest (Liu et al. 2008) on tf-idf of character 1- to 3-grams
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.templates import Templates

NAMES = ("length", "punctuation", "template", "ngram_5", "isolation_forest")

_MAX_LINES = 20_000  # that the forest is fitted to
_MAX_FEATURES = 2_000
_MAX_LINE_CHARACTERS = 2_000  # of a line that the forest uses
_BATCH = 5_000  # lines that it scores at a time

Floats = NDArray[np.float64]


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
