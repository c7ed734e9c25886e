from typing import Any

import pytest

from nextchar.models.auto_preset import Candidate
from nextchar.models.config import Budget, NetworkConfig, Preset, TrainingConfig
from nextchar.worker import training as auto_preset
from nextchar.worker.mixing import SecondText
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import choose_preset, prepare

SIZES: dict[Preset, tuple[int, int]] = {"tiny": (4, 0), "small": (8, 100), "medium": (16, 300)}
"""Units and the least number of steps."""


def _candidates(seconds: float) -> list[Candidate]:
    return [
        Candidate(
            preset=preset,
            min_steps=min_steps,
            network=NetworkConfig(units=units, embedding=4, dropout=None),
            training=TrainingConfig(rows=4, window=8, budget=Budget(seconds=seconds)),
        )
        for preset, (units, min_steps) in SIZES.items()
    ]


class Clock:
    """Each reading is `step_s` later than the one before."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now = step_s, 0.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@pytest.mark.parametrize(("step_s", "preset"), [(100.0, "tiny"), (60 / 101, "small"), (60 / 301, "medium")])
def test_the_choice_depends_on_the_measured_seconds_per_step(step_s: float, preset: Preset) -> None:
    text = Text.split("the quick brown fox " * 100, validation_fraction=0.1)
    choice = choose_preset(_candidates(60), text, clock=Clock(step_s))
    assert choice.candidate.preset == preset
    assert f"about {round(60 / step_s) or 1:,} in 60 s" in choice.sentence


@pytest.mark.parametrize("text", ["ab" * 100, "a" * 200])
def test_short_and_uniform_texts_are_measured(text: str) -> None:
    choice = choose_preset(_candidates(1), Text.split(text, validation_fraction=0.1))
    assert choice.candidate.preset in SIZES


def test_a_second_text_takes_part_in_the_measurement() -> None:
    text = Text.split("the quick brown fox " * 100, validation_fraction=0.1)
    second = SecondText(text.train, 0.5, "text")
    assert choose_preset(_candidates(1), text, second=second).candidate.preset in SIZES


class ResourceExhaustedError(Exception):
    """As TensorFlow's, by its name."""


@pytest.mark.parametrize("error", [MemoryError(), ResourceExhaustedError("OOM when allocating tensor")])
def test_a_candidate_that_does_not_fit_in_memory_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def choose(max_units: int) -> Preset:
        def prepare_if_it_fits(network: NetworkConfig, *arguments: Any, **options: Any) -> Any:
            if network.units > max_units:
                raise error
            return prepare(network, *arguments, **options)

        monkeypatch.setattr(auto_preset, "prepare", prepare_if_it_fits)
        text = Text.split("the quick brown fox " * 100, validation_fraction=0.1)
        return choose_preset(_candidates(60), text, clock=Clock(0.01)).candidate.preset

    assert [choose(max_units) for max_units in (4, 8, 16)] == ["tiny", "small", "medium"]
    with pytest.raises(type(error)):
        choose(max_units=0)
