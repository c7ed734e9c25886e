"""Problems of models that learned too little."""

from typing import Any

import pytest

from nextchar.models.config import Mix, NetworkConfig, TrainingConfig
from nextchar.models.saved_model import Card
from nextchar.worker.report import find_problems

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


def test_held_out_records_that_the_start_model_may_know_are_reported_in_any_case() -> None:
    (sentence,) = find_problems({**REPORT, "kind": "records", "started_from": "m@1"})
    assert "started from may have been trained on some of the held-out lines" in sentence
    worse = {**REPORT, "kind": "records", "started_from": "m@1", "validation_bits_per_character": 2.6}
    assert [sentence, *find_problems({**worse, "started_from": None})] == find_problems(worse)
    for other in (
        {"kind": "records", "started_from": None},
        {"kind": "text", "started_from": "m@1"},
        {"kind": "records", "started_from": "base/english@1"},
    ):
        assert find_problems({**REPORT, **other}) == []


@pytest.mark.parametrize(
    ("start", "is_known"),
    [
        ({}, False),
        ({"training": TrainingConfig(validation_fraction=0.05)}, True),
        ({"training": TrainingConfig(validation_fraction=0.2)}, False),
        ({"kind": "records"}, True),
        ({"corpus": "corpus_2", "training": TrainingConfig(validation_fraction=0.05)}, False),
        ({"corpus": "corpus_2", "mix": Mix(corpus="corpus_1")}, True),
        ({"mix": Mix(corpus="corpus_1")}, False),
        ({"mix": Mix(corpus="corpus_2")}, False),
    ],
)
def test_held_out_text_that_the_start_model_was_trained_on_is_reported(
    start: dict[str, Any], is_known: bool
) -> None:
    card = Card(
        id="model_1",
        name="m",
        created_at=1795563600,
        corpus="corpus_1",
        network=NetworkConfig(),
        training=TrainingConfig(validation_fraction=0.1),
        characters="ab",
        parameters=1,
        files={},
    ).model_copy(update=start)
    training = {"validation_fraction": 0.1}
    report = {**REPORT, "kind": "text", "started_from": "m@1", "corpus": "corpus_1", "training": training}
    problems = find_problems(report, card)
    assert len(problems) == is_known
    assert all("was trained on some of the held-out text" in sentence for sentence in problems)


def _with_network_bits(chosen: float, judged: float) -> dict[str, Any]:
    curve = [{"validation_bits_per_character": bits} for bits in (6.8, chosen, chosen + 0.1)]
    return {**REPORT, "curve": curve, "experts": {"lstm": judged}}


def test_an_end_that_is_unlike_the_text_is_reported_also_if_the_model_is_good() -> None:
    (sentence,) = find_problems(_with_network_bits(3.63, 4.72))
    assert sentence == (
        "the end of the text, by which the model is judged, is unlike what precedes it: the network alone has"
        " 4.72 bits per character there, and 3.63 before; look at the end, and leave out what does not belong"
        " to the text, such as a license or an index"
    )
    (advice,) = find_problems({**_with_network_bits(3.63, 4.72), "validation_bits_per_character": 2.6})
    assert advice.startswith("the model is worse than a simple predictor") and advice.endswith(sentence)


@pytest.mark.parametrize(("chosen", "judged"), [(2.0, 2.2), (0.5, 0.62), (3.63, 2.9)])
def test_usual_differences_of_the_held_out_halves_are_no_problem(chosen: float, judged: float) -> None:
    assert find_problems(_with_network_bits(chosen, judged)) == []


def test_a_predictable_text_and_a_tie_are_no_problems() -> None:
    dull = {"validation_bits_per_character": 0.01, "baselines": {"unigram": 0.0, "ngram": 0.0, "xz": 0.0}}
    assert find_problems({**REPORT, **dull}) == []
    assert find_problems({**REPORT, "validation_bits_per_character": 2.315}) == []


def test_without_baselines_no_problem_is_reported() -> None:
    assert find_problems({key: value for key, value in REPORT.items() if key != "baselines"}) == []
