import random

import numpy as np

from models.anomaly.baselines import NAMES, baseline_scores

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "log", "hat", "ran", "far"]


def lines(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=6)) for _ in range(count)]


def test_every_baseline_finds_its_kind_of_anomaly() -> None:
    found = baseline_scores(lines(300), ["the cat sat on a hat", "@@@ $$$, (xq) %%% !!!, <zz> the cat"])
    assert list(found) == list(NAMES)
    for name in ("length", "punctuation", "ngram_5"):
        assert found[name][0] < found[name][1], name


def test_isolation_forest_scores_rare_lines_highest() -> None:
    train = ["the cat sat on a mat"] * 290 + ["dog log hat ran far"] * 10
    scores = baseline_scores(train, ["the cat sat on a mat", "dog log hat ran far"])["isolation_forest"]
    assert scores[0] < scores[1]


def test_a_new_template_is_rarer_than_a_frequent_one() -> None:
    train = [f"disk {i} is full" for i in range(50)] + [f"fan {i} stopped" for i in range(5)]
    scores = baseline_scores(train, ["disk 99 is full", "fan 7 stopped", "disk 7 is lost"])["template"]
    assert scores[0] < scores[1] < scores[2]


def test_empty_training_lines_are_ignored() -> None:
    train = [line for some in lines(10_001) for line in ("", some)]  # more than a forest is fitted to
    scores = baseline_scores(train, ["the cat sat on a hat", "tac a"])["isolation_forest"]
    assert np.isfinite(scores).all() and len(set(scores)) == 2
