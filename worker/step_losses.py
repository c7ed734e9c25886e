"""The training losses since the last evaluation: their mean, and the last ones."""

from dataclasses import dataclass, field
from typing import Any, Self

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
