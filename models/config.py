"""What a network is and how it is trained, as plain frozen values that travel as JSON.

Shape letters, here and everywhere: B rows, T steps, E embedding, H hidden units, L layers,
V vocabulary (with id 0).
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import InvalidInput

Architecture = Literal["stateful_lstm"]
Preset = Literal["tiny", "small", "medium", "large"]


class Frozen(BaseModel):
    """A value: immutable, and strict about fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Frozen):
    """The shape of a network: everything its weights' shapes follow from, but for V."""

    architecture: Architecture = "stateful_lstm"
    layers: int = Field(1, ge=1, le=8, description="Stacked LSTM layers (L).")
    units: int = Field(512, ge=4, le=4096, description="Hidden units of each LSTM layer (H).")
    embedding: int = Field(64, ge=2, le=1024, description="Numbers in a character's embedding (E).")
    dropout: float = Field(
        0.0, ge=0, lt=0.95, description="Share of each LSTM output dropped while training."
    )

    def parameters(self, vocabulary_size: int) -> int:
        """Return the number of weights for a vocabulary of V ids."""
        h, width = self.units, self.embedding
        count = vocabulary_size * self.embedding + 4 * self.embedding  # embedding, batch normalization
        for _ in range(self.layers):
            count += 4 * h * (width + h + 1)
            width = h
        return count + (h + 1) * vocabulary_size


class Budget(Frozen):
    """When training ends: exactly one of the three is given."""

    epochs: float | None = Field(None, gt=0, le=10_000, description="Passes over the training text.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps.")
    seconds: float | None = Field(
        None, ge=1, le=30 * 86400, description="Wall-clock seconds; the speed measured first fixes the steps."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(v is not None for v in (self.epochs, self.steps, self.seconds)) != 1:
            raise ValueError("give exactly one of epochs, steps, seconds")
        return self


class TrainingConfig(Frozen):
    """How a network is trained. The defaults are the recipe of the `small` preset."""

    rows: int = Field(32, ge=1, le=4096, description="Parallel streams the corpus is cut into (B).")
    window: int = Field(32, ge=2, le=4096, description="Steps of truncated back-propagation (T).")
    learning_rate: float = Field(8e-3, gt=0, le=1, description="Peak rate of the one-cycle schedule.")
    weight_decay: float = Field(0.2, ge=0, le=1, description="Decoupled decay of AdamW.")
    clip_norm: float = Field(1.0, gt=0, le=1000, description="Largest global norm of a gradient.")
    budget: Budget = Budget(seconds=60)
    validation_fraction: float = Field(
        0.1, ge=0.005, le=0.5, description="Share of the text, at its end, held out."
    )
    seed: int = Field(1, ge=0, lt=2**31)


# What was tried on the way to these is in docs/training.md.
PRESETS: dict[Preset, tuple[NetworkConfig, TrainingConfig]] = {
    "tiny": (NetworkConfig(units=256), TrainingConfig(learning_rate=1e-2)),
    "small": (NetworkConfig(), TrainingConfig()),
    "medium": (NetworkConfig(layers=2, dropout=0.1), TrainingConfig(learning_rate=5e-3)),
    "large": (
        NetworkConfig(layers=2, units=1024, embedding=96, dropout=0.2),
        TrainingConfig(rows=64, window=64, learning_rate=3e-3),
    ),
}

MINIMUM_CHARACTERS = 200
"""The shortest text that is trained on: below it, a held-out tenth says nothing."""


def estimate_training_bytes(network: NetworkConfig, training: TrainingConfig, vocabulary_size: int) -> int:
    """Return the bytes a training process needs at its peak, within a factor of about 1.5.

    Weights are kept as weights, gradients of two replicas, two AdamW moments, an average and the best
    so far; activations are the gates, states and logits of one window, forward and backward.
    """
    b, t, h = training.rows, training.window, network.units
    weights = 8 * network.parameters(vocabulary_size)
    activations = b * t * (network.layers * 12 * h + 4 * vocabulary_size)
    return 4 * (weights + activations) + 600_000_000  # the process with TensorFlow itself


def check_memory(
    network: NetworkConfig, training: TrainingConfig, vocabulary_size: int, limit_bytes: int
) -> None:
    """Raise InvalidInput when training needs more than `limit_bytes`, with the estimate in the message."""
    needed = estimate_training_bytes(network, training, vocabulary_size)
    if needed > limit_bytes:
        raise InvalidInput(
            f"training this network needs about {needed / 2**30:.1f} GiB and the limit is"
            f" {limit_bytes / 2**30:.1f} GiB; take fewer units, layers, rows or a shorter window",
            code="network_too_large",
            param="network",
        )
