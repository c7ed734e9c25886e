"""Problems of models that learned too little."""

from typing import Any

import pytest

from worker.problems import find_problems

REPORT: dict[str, Any] = {
    "validation_bits_per_character": 2.0,
    "baselines": {"uniform": 6.58, "unigram": 4.77, "bigram": 3.5, "ngram": 2.31, "gzip": 3.4, "xz": 2.9},
    "ngram_order": 5,
    "training_seconds": 30.2,
    "epochs": 0.123,
    "validation_turned_at_step": None,
}


def test_a_model_that_beats_its_baselines_has_no_problem() -> None:
    assert find_problems(REPORT) == []


def test_a_model_that_learned_nothing_is_reported_with_figures_and_advice() -> None:
    (sentence,) = find_problems({**REPORT, "validation_bits_per_character": 6.55})
    assert sentence == (
        "the model has learned almost nothing: 6.55 bits per character on held-out text, where character"
        " frequencies alone (unigram) reach 4.77; it trained for 30 s and read the text 0.12 times: train"
        " for more seconds, or use a smaller preset"
    )


@pytest.mark.parametrize(
    ("baselines", "better"),
    [({"ngram": 2.31, "xz": 2.9}, "5-gram model reaches 2.31"), ({"xz": 1.5}, "xz compressor reaches 1.50")],
)
def test_a_model_worse_than_a_baseline_is_compared_with_the_best_baseline(
    baselines: dict[str, float], better: str
) -> None:
    (sentence,) = find_problems({**REPORT, "validation_bits_per_character": 2.6, "baselines": baselines})
    assert "worse than a simple predictor: 2.60 bits per character" in sentence
    assert better in sentence


def test_advice_depends_on_the_cause() -> None:
    worse = {**REPORT, "validation_bits_per_character": 2.6}
    (advice,) = find_problems({**worse, "validation_turned_at_step": 700})
    assert "train on more text, or use a smaller preset" in advice
    (advice,) = find_problems({**worse, "ended_early": "ended early: held-out loss was best at step 700"})
    assert advice.endswith("; held-out loss stopped falling, so training ended early: train on more text")
    assert "train for more seconds or on more text" in find_problems({**worse, "epochs": 7.1})[0]


def test_a_predictable_text_and_a_tie_are_no_problems() -> None:
    dull = {"validation_bits_per_character": 0.01, "baselines": {"unigram": 0.0, "ngram": 0.0, "xz": 0.0}}
    assert find_problems({**REPORT, **dull}) == []
    assert find_problems({**REPORT, "validation_bits_per_character": 2.315}) == []


def test_without_baselines_no_problem_is_reported() -> None:
    assert find_problems({key: value for key, value in REPORT.items() if key != "baselines"}) == []
