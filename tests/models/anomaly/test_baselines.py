import random

import numpy as np
import pytest

from nextchar.models.anomaly import metrics as baselines
from nextchar.models.anomaly.metrics import NAMES, baseline_scores
from nextchar.models.text.ngram import NgramModel

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


def test_empty_training_lines_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_MAX_LINES", 200)
    train = [line for some in lines(101) for line in ("", some)]  # more than a forest is fitted to
    scores = baseline_scores(train, ["the cat sat on a hat", "tac a"])["isolation_forest"]
    assert np.isfinite(scores).all() and len(set(scores)) == 2


def test_punctuation_is_what_is_no_letter_digit_or_space() -> None:
    found = baseline_scores(["a"], ["a b\t7é", "a-b.c", ""])
    assert found["punctuation"].tolist() == [0, 2, 0] and found["length"].tolist() == [6, 5, 0]


def test_n_grams_are_of_five_characters_and_lines_begin_after_a_newline() -> None:
    train = lines(50)
    model = NgramModel.fit("\n" + "\n".join(train) + "\n", order=5)
    scores = baseline_scores(train, ["the cat sat", ""])["ngram_5"]
    assert scores.tolist() == [model.surprisal("the cat sat").mean(), 0]


def test_the_forest_is_that_of_character_1_to_3_grams() -> None:
    from sklearn.ensemble import IsolationForest
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = ["The cat sat", "the dog ran", "a Cat and a dog"] * 5
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, dtype=np.float32)
    forest = IsolationForest(random_state=0).fit(vectorizer.fit_transform(train))
    new = ["THE CAT SAT", "the cat sat"]
    expected = -forest.score_samples(vectorizer.transform(new))
    np.testing.assert_array_equal(baseline_scores(train, new)["isolation_forest"], expected)


def test_no_lines_have_no_scores() -> None:
    assert {len(scores) for scores in baseline_scores(["a b", "b a"], []).values()} == {0}
