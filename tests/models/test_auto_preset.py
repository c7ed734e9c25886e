from collections.abc import Sequence

import pytest

from nextchar.models.auto_preset import RULES, Candidate, choose, describe, nearest_presets
from nextchar.models.config import PRESETS, Budget, Preset

CANDIDATES = [
    Candidate(
        preset=rule.preset,
        min_steps=rule.min_steps,
        min_characters=rule.min_characters,
        network=rule.network,
        training=rule.training,
    )
    for rule in RULES
]
FAST = (0.003, 0.006, 0.016, 0.04, 0.6)  # seconds per step of each


def _chosen(
    budget_s: float, seconds: Sequence[float] = FAST, *, characters: int = 10**9
) -> tuple[int, str, list[int]]:
    """Return the index of the candidate that was chosen, the sentence and what was measured."""
    measured: list[int] = []

    def step_s(candidate: Candidate) -> float:
        measured.append(CANDIDATES.index(candidate))
        return seconds[measured[-1]]

    choice = choose(CANDIDATES, budget_s, characters, step_s)
    return CANDIDATES.index(choice.candidate), choice.sentence, measured


def test_the_table_has_every_preset_in_order_of_size() -> None:
    assert list(dict.fromkeys(rule.preset for rule in RULES)) == list(PRESETS)
    for minimum in ([rule.min_steps for rule in RULES], [rule.min_characters for rule in RULES]):
        assert minimum == sorted(minimum) and minimum[0] == 0
    for rule in RULES[2:]:
        assert (rule.network, rule.training) == PRESETS[rule.preset]
    assert (RULES[0].network.units, RULES[0].training.learning_rate) == (128, 4e-2)
    assert (RULES[1].network, RULES[1].training.learning_rate) == (PRESETS["tiny"][0], 2e-2)


@pytest.mark.parametrize("index", range(1, len(RULES)))
def test_a_candidate_is_chosen_from_its_number_of_steps_on(index: int) -> None:
    budget_s = RULES[index].min_steps * FAST[index]
    assert _chosen(budget_s * 1.001)[0] == index
    assert _chosen(budget_s * 0.999)[0] == index - 1


def test_a_larger_network_is_not_measured_if_a_smaller_one_is_too_slow_for_it() -> None:
    index, sentence, measured = _chosen(1)
    assert (index, measured) == (0, [0])
    assert sentence == (
        "auto: preset tiny, 1 layer of 128 units, 32 rows of 32-character windows; this machine makes 333"
        f" steps per second, about 333 in 1 s; tiny with 256 units needs {RULES[1].min_steps:,} of its own"
    )
    index, sentence, measured = _chosen(1, (30.0, 50.0, 90.0, 200.0, 5000.0))
    assert (index, measured) == (0, [0])
    assert "0.0333 steps per second, about 1 in 1 s" in sentence


def test_a_network_that_was_measured_and_is_too_slow_is_named() -> None:
    index, sentence, measured = _chosen(RULES[2].min_steps * FAST[2] * 0.9)
    assert (index, measured) == (1, [0, 1, 2])
    steps = round(RULES[2].min_steps * 0.9)
    assert sentence.endswith(f"small needs {RULES[2].min_steps:,} of its own and would make {steps:,}")


@pytest.mark.parametrize("index", range(2, len(RULES)))
def test_a_short_text_gets_a_small_network_and_no_larger_one_is_measured(index: int) -> None:
    enough = RULES[index].min_characters
    assert _chosen(1e6, characters=enough)[0] >= index
    chosen, sentence, measured = _chosen(1e6, characters=enough - 1)
    assert (chosen, measured) == (index - 1, list(range(index)))
    assert sentence.endswith(f"; {RULES[index].preset} needs a training text of {enough:,} characters")


def test_the_largest_network_needs_no_further_explanation() -> None:
    index, sentence, measured = _chosen(1e6)
    assert (index, measured) == (len(RULES) - 1, list(range(len(RULES))))
    assert "2 layers of 1024 units, 64 rows" in sentence and "needs" not in sentence


def test_a_single_candidate_is_the_choice() -> None:
    assert choose(CANDIDATES[2:3], 1, 1, lambda _: 10.0).candidate == CANDIDATES[2]


def test_a_choice_without_a_measurement_is_described() -> None:
    network, training = PRESETS["small"]
    sentence = "auto: preset small, 1 layer of 512 units, 32 rows of 32-character windows"
    assert describe("small", network, training) == sentence
    training = training.model_copy(update={"budget": Budget(steps=5)})
    reason = "speed is not measured, because the budget is not in seconds"
    assert describe("small", network, training) == f"{sentence}; {reason}"


@pytest.mark.parametrize(
    ("layers", "units", "nearest"),
    [
        (1, None, ["tiny", "small"]),
        (8, None, ["medium", "large"]),
        (None, 4, ["tiny"]),
        (None, 4096, ["large"]),
        (2, 512, ["medium"]),
        (1, 128, ["tiny"]),
    ],
)
def test_presets_are_nearest_in_layers_and_units(
    layers: int | None, units: int | None, nearest: list[Preset]
) -> None:
    assert nearest_presets(layers=layers, units=units) == nearest
