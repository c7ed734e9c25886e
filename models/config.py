"""What a network is and how it is trained, as plain frozen values that travel as JSON.

Shape letters, here and everywhere: B rows, T steps, E embedding, H hidden units, L layers,
V vocabulary (with id 0).
"""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import InvalidInput

if TYPE_CHECKING:
    from models.architectures.spec import Architecture as Spec

# Each name is a file of models/architectures; the order is that of the lecture notes, after our own.
Architecture = Literal[
    "stateful_lstm",
    "three_char",
    "nth_char",
    "simple_rnn",
    "sequence_rnn",
    "onehot_rnn",
    "stateful_lstm_lesson",
    "stacked_lstm_lesson",
    "scan_rnn",
    "numpy_rnn",
]
Preset = Literal["tiny", "small", "medium", "large"]
MixTargets = Literal["text", "sampled", "argmax", "distribution"]


class Frozen(BaseModel):
    """A value: immutable, and strict about fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Frozen):
    """The shape of a network: everything its weights' shapes follow from, but for V."""

    architecture: Architecture = "stateful_lstm"
    layers: int = Field(1, ge=1, le=8, description="Stacked LSTM layers (L).")
    units: int = Field(512, ge=4, le=4096, description="Hidden units of each layer (H).")
    embedding: int | None = Field(
        64, ge=2, le=1024, description="Numbers in a character's embedding (E); null: one-hot characters."
    )
    dropout: float | None = Field(
        0.0,
        ge=0,
        lt=0.95,
        description="Share of each LSTM output dropped while training; null: by how often the text is read.",
    )
    context: int | None = Field(
        None,
        ge=2,
        le=64,
        description="Characters that a window model sees; null: its state carries all before.",
    )

    def parameters(self, vocabulary_size: int) -> int:
        """Return the number of weights for a vocabulary of V ids."""
        return _architecture(self).parameters(self, vocabulary_size)


class Budget(Frozen):
    """When training ends: exactly one of the three is given."""

    epochs: float | None = Field(None, gt=0, le=10_000, description="Passes over the training text.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps.")
    seconds: float | None = Field(
        None,
        ge=1,
        le=30 * 86400,
        description="Wall-clock seconds from the first step on; the speed measured before fixes the steps.",
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


class Mix(Frozen):
    """A second text in a share of each batch's rows: the lecture notes' MixIterator."""

    corpus: str = Field(description="The id or name of an uploaded corpus.")
    teacher: str | None = Field(
        None,
        max_length=128,
        description="A model, `name` or `name@version`, that says what should follow each character of the"
        " second text; null: the text itself does.",
    )
    targets: MixTargets = Field(
        "text",
        description="What the rows are trained towards: the text's next character, or the teacher's"
        " distribution (the default with a teacher), a character drawn from it, or its likeliest one.",
    )
    fraction: float = Field(0.25, gt=0, lt=1, description="Share of the rows that hold the second text.")

    @model_validator(mode="before")
    @classmethod
    def _targets_of_a_teacher(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("teacher") and "targets" not in data:
            return data | {"targets": "distribution"}
        return data

    @model_validator(mode="after")
    def _teacher_and_targets_agree(self) -> Self:
        if self.teacher and self.targets == "text":
            raise ValueError("the targets are the text's own, so there is nothing for a teacher to do")
        if not self.teacher and self.targets != "text":
            raise ValueError(f"the targets {self.targets} are a teacher's, and none is given")
        return self


# What was tried on the way to these is in docs/training.md.
PRESETS: dict[Preset, tuple[NetworkConfig, TrainingConfig]] = {
    "tiny": (NetworkConfig(units=256, dropout=None), TrainingConfig(learning_rate=1e-2)),
    "small": (NetworkConfig(dropout=None), TrainingConfig()),
    "medium": (NetworkConfig(layers=2, dropout=None), TrainingConfig(learning_rate=5e-3)),
    "large": (
        NetworkConfig(layers=2, units=1024, embedding=96, dropout=None),
        TrainingConfig(rows=64, window=64, learning_rate=3e-3),
    ),
}

MINIMUM_CHARACTERS = 200
"""The shortest text that is trained on: below it, a held-out tenth says nothing."""

MINIMUM_HELD_OUT_CHARACTERS = 20


def estimate_training_bytes(network: NetworkConfig, training: TrainingConfig, vocabulary_size: int) -> int:
    """Return the bytes a training process needs at its peak, within a factor of about 1.5.

    Weights are kept as weights, gradients of two replicas, two AdamW moments and the best so far (6); a
    checkpoint has three of these beside it, and once more as a file (7), and so has the one that a divergence
    goes back to (3). Activations are the gates, states and logits of one window, forward and backward.
    """
    weights = 16 * network.parameters(vocabulary_size)
    each = _architecture(network).activation_floats_per_character(network, vocabulary_size)
    activations = training.rows * training.window * each
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


def _architecture(network: NetworkConfig) -> "Spec":
    from models.architectures import architecture  # its files are made of this module's values

    return architecture(network.architecture)
