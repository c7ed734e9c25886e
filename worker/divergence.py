"""When a run has diverged: its loss is not finite, or far above what it began with.

Early stopping: a run whose held-out loss has turned ends with a short cooldown from its best weights.

The rule and what it is worth are in docs/engineering/training-recipes.md#early-stopping.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from nextchar.models.errors import InvalidInput
from nextchar.worker.schedule import RunState, Schedule

MAX_RETRIES = 3

_MAX_LOSS_RATIO = 1.5  # to the first loss, or that of a uniform prediction
_MIN_CHARACTERS = 32  # the loss of a smaller step is too noisy: several steps are averaged
_AVERAGED_STEPS = 32


class Diverged(InvalidInput):
    """The loss diverged again after every rollback and at every lower learning rate."""

    code = "diverged"


@dataclass(frozen=True)
class LossBound:
    """The highest loss that a healthy run can have."""

    vocabulary_size: int
    characters_per_step: int

    def nats(self, state: RunState) -> float:
        """Return the bound in nats per character."""
        # The loss of a uniform prediction counts too: a warm start begins far below it.
        uniform = float(np.log(self.vocabulary_size))
        return _MAX_LOSS_RATIO * max(state.first_loss or 1.0, uniform, 1.0)

    def is_exceeded(self, loss: float, previous_bits: Sequence[float], state: RunState) -> bool:
        """Return whether a step's `loss`, in nats per character, means divergence.

        `previous_bits` are the losses of the steps before, in bits per character.
        """
        count = 1 if self.characters_per_step >= _MIN_CHARACTERS else _AVERAGED_STEPS
        previous = previous_bits[len(previous_bits) - count + 1 :]
        latest = [bits * float(np.log(2)) for bits in previous] + [loss]
        if len(latest) < count:
            return not np.isfinite(loss)
        return not np.mean(latest) <= self.nats(state)  # also if it is NaN


RECENT_STEPS = 50
"""Of these the losses are kept: for the progress, and for `LossBound`, which needs fewer."""


@dataclass
class StepLosses:
    """The losses of steps, in bits per character. Its size does not depend on their number."""

    recent_bits: list[float] = field(default_factory=list)
    sum_bits: float = 0.0
    count: int = 0

    def add(self, bits: float) -> None:
        """Add the loss of a step."""
        self.recent_bits.append(bits)
        del self.recent_bits[:-RECENT_STEPS]
        self.sum_bits += bits
        self.count += 1

    @property
    def mean_bits(self) -> float | None:
        """The mean of all losses, None if there are none."""
        return self.sum_bits / self.count if self.count else None

    def to_meta(self) -> dict[str, Any]:
        """Return the losses as the JSON values of a checkpoint."""
        return {"losses": self.recent_bits[:], "loss_sum": self.sum_bits, "loss_count": self.count}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Self:
        """Return the losses of a checkpoint. An old one has all of them in `losses`, and no sum and count."""
        losses = cls()
        for bits in meta["losses"]:
            losses.add(bits)
        losses.sum_bits = meta.get("loss_sum", losses.sum_bits)
        losses.count = meta.get("loss_count", losses.count)
        return losses


PATIENCE = (
    4  # evaluations in a row without a new best, and in each median; a fifth of a run with all evaluations
)

_MIN_EPOCHS = 4  # a text that was read less often is not overfitted: the loss only goes up and down
_COOLDOWN_FRACTION = 0.1  # of the steps that were made


@dataclass(frozen=True)
class Cooldown:
    """The end of a run that stops early: the rest of the learning rate's decay, in a few steps."""

    schedule: Schedule
    sentence: str


def cooldown(state: RunState) -> Cooldown | None:
    """Return the cooldown that a run should end with, from its best weights; None: it continues.

    Call it after an evaluation. A run continues while held-out loss still falls now and then, while the
    median of four evaluations falls, while the text was read less than four times, if the cooldown would
    take longer than the rest of the budget, and in its cooldown.
    """
    if state.ended_early or state.evaluations_since_best < PATIENCE or state.epoch < _MIN_EPOCHS:
        return None
    bits = [evaluation["validation_bits_per_character"] for evaluation in state.curve[1:]]
    before, since = bits[-2 * PATIENCE : -PATIENCE], bits[-PATIENCE:]
    if before and statistics.median(since) <= statistics.median(before):
        return None  # the best was an exception: at a high rate the loss goes up and down
    end = state.step + max(1, round(_COOLDOWN_FRACTION * state.step))
    if end >= state.schedule.end:
        return None
    sentence = (
        f"ended early: held-out loss was best at step {state.best_step:,} ({state.best_bits:.3f} bits per"
        f" character), and worse at {state.evaluations_since_best} evaluations since; the last"
        f" {end - state.step:,} steps continue from those weights with a falling rate and end at step {end:,}"
        f" instead of {state.schedule.end:,}"
    )
    # The rate falls from what it was at the best step.
    progress = max(0.0, state.schedule.at(state.best_step))
    return Cooldown(Schedule(end=end, step=state.step, progress=progress), sentence)
