"""When a run has diverged: its loss is not finite, or far above what it began with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextchar.models.errors import InvalidInput
from nextchar.worker.run_state import RunState

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
