import random

import numpy as np

from models.anomaly.baselines import NAMES, baseline_scores

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "log", "hat", "ran", "far"]


def lines(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=6)) for _ in range(count)]


def test_every_simple_score_is_told_and_finds_what_it_is_for() -> None:
    found = baseline_scores(lines(300), ["the cat sat on a hat", "@@@ $$$, (xq) %%% !!!, <zz> the cat"])
    assert list(found) == list(NAMES)
    assert all(found[name][0] < found[name][1] for name in ("length", "punctuation", "ngram_5"))
    assert len(set(found["isolation_forest"])) == 2


def test_empty_lines_between_others_are_nothing_to_learn_from() -> None:
    train = [line for some in lines(10_001) for line in ("", some)]  # more than a forest is grown from
    scores = baseline_scores(train, ["the cat sat on a hat", "tac a"])["isolation_forest"]
    assert np.isfinite(scores).all() and len(set(scores)) == 2
