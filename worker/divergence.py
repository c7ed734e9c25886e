"""When a run has diverged: its loss is not finite, or far above what it began with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

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
