"""What preset `auto` chooses: the largest network that can take enough steps in the budget.

Which network is best after a number of steps depends on the text and hardly on the machine, and how many
steps a budget in seconds allows can be measured. The study behind the table is in
docs/engineering/auto-preset.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nextchar.models.config import PRESETS, Frozen, NetworkConfig, Preset, TrainingConfig


@dataclass(frozen=True)
class Rule:
    """A preset is chosen from `min_steps` of its own steps on, for a training text of `min_characters`.

    `units` and `learning_rate` replace those of the preset.
    """

    preset: Preset
    min_steps: int
    min_characters: int = 0
    units: int | None = None
    learning_rate: float | None = None

    @property
    def network(self) -> NetworkConfig:
        """The preset's network with the changes."""
        network = PRESETS[self.preset][0]
        return network.model_copy(update={"units": self.units or network.units})

    @property
    def training(self) -> TrainingConfig:
        """The preset's recipe with the changes."""
        training = PRESETS[self.preset][1]
        return training.model_copy(update={"learning_rate": self.learning_rate or training.learning_rate})


RULES = (
    Rule("tiny", 0, units=128, learning_rate=4e-2),
    Rule("tiny", 600, learning_rate=2e-2),
    Rule("small", 1200, min_characters=20_000),
    Rule("medium", 2500, min_characters=300_000),
    Rule("large", 5000, min_characters=2_000_000),
)
"""The rules, from the smallest network to the largest; `auto` chooses the last for which steps and text
suffice."""

BASE_RULE = Rule("small", 0, learning_rate=1e-3)
"""The network of the base models, and the recipe that goes on training one."""

MAX_BASE_CHARACTERS = 200_000
"""The longest text that `auto` starts from a base model for."""

WITHOUT_SECONDS: Preset = "small"
"""The choice for a budget in steps or epochs, which has no time limit to fit."""


class Candidate(Frozen):
    """A network and recipe that `auto` may choose: those of a rule, with the job's own fields."""

    preset: Preset
    min_steps: int
    min_characters: int = 0
    network: NetworkConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, and a sentence that explains it."""

    candidate: Candidate
    sentence: str


def nearest_presets(*, layers: int | None, units: int | None) -> list[Preset]:
    """Return the presets whose networks are nearest in size to the fields that are given, smallest first.

    >>> nearest_presets(layers=None, units=None)
    ['tiny', 'small', 'medium', 'large']
    >>> nearest_presets(layers=None, units=512), nearest_presets(layers=2, units=900)
    (['small', 'medium'], ['large'])
    """
    distances = {
        preset: sum(
            abs(math.log(given / actual))
            for given, actual in ((layers, network.layers), (units, network.units))
            if given is not None
        )
        for preset, (network, _) in PRESETS.items()
    }
    return [preset for preset, distance in distances.items() if distance < min(distances.values()) + 1e-9]


def choose(
    candidates: Sequence[Candidate],
    budget_s: float,
    characters: int,
    seconds_per_step: Callable[[Candidate], float],
) -> Choice:
    """Return the largest candidate that the steps and the text suffice for, or else the smallest.

    Args:
        candidates: at least one, smallest first.
        budget_s: the seconds to train for.
        characters: the length of the training text.
        seconds_per_step: measures a candidate. It is not called for one that cannot have enough steps,
            because a larger network is never faster.
    """
    chosen, step_s, rest = candidates[0], seconds_per_step(candidates[0]), ""
    for larger in candidates[1:]:
        needed = larger.min_steps
        rest = f"; {_name(larger, chosen)} needs {needed:,} of its own"
        if characters < larger.min_characters:
            rest = f"; {larger.preset} needs a training text of {larger.min_characters:,} characters"
            break
        if budget_s / step_s < needed:
            break
        larger_step_s = seconds_per_step(larger)
        if budget_s / larger_step_s < needed:
            rest += f" and would make {budget_s / larger_step_s:,.0f}"
            break
        chosen, step_s, rest = larger, larger_step_s, ""
    description = _description(chosen.preset, chosen.network, chosen.training)
    return Choice(chosen, f"{description}{_pace(step_s, budget_s)}{rest}")


def describe(preset: Preset, network: NetworkConfig, training: TrainingConfig) -> str:
    """Return the sentence about a choice for which nothing is measured."""
    sentence = _description(preset, network, training)
    if training.budget.seconds is None:
        sentence += "; speed is not measured, because the budget is not in seconds"
    return sentence


def _name(candidate: Candidate, smaller: Candidate) -> str:
    if candidate.preset != smaller.preset:
        return candidate.preset
    return f"{candidate.preset} with {candidate.network.units} units"


def _description(preset: Preset, network: NetworkConfig, training: TrainingConfig) -> str:
    layers = f"{network.layers} layer{'s' if network.layers > 1 else ''}"
    return (
        f"auto: preset {preset}, {layers} of {network.units} units, {training.rows} rows of"
        f" {training.window}-character windows"
    )


def _pace(step_s: float, budget_s: float) -> str:
    steps = max(1, round(budget_s / step_s))
    return f"; this machine makes {1 / step_s:.3g} steps per second, about {steps:,} in {budget_s:g} s"
