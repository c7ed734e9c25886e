"""The configuration of networks and of training, as frozen pydantic models.

Shape letters, here and everywhere: B rows, T steps, E embedding, H hidden units, L layers,
V vocabulary (with id 0).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.models.text.line_columns import Column

# Each name is a module of models/architectures: the default, then those of the lecture notes in their order.
ArchitectureName = Literal[
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
PresetOption = Literal["auto", "tiny", "small", "medium", "large"]
"""A preset, or `auto`: models/auto_preset.py chooses one."""

MixTargets = Literal["text", "sampled", "argmax", "distribution"]


class Frozen(BaseModel):
    """Base of the models here: immutable; unknown fields are an error; docstrings describe fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NetworkConfig(Frozen):
    """The shape of a network; with V it determines the shapes of all weights."""

    architecture: ArchitectureName = "stateful_lstm"
    layers: int = Field(1, ge=1, le=8, description="Stacked LSTM layers (L).")
    units: int = Field(512, ge=4, le=4096, description="Hidden units of each layer (H).")
    embedding: int | None = Field(64, ge=2, le=1024)
    """Size of a character's embedding (E); null: one-hot characters."""
    dropout: float | None = Field(0.0, ge=0, lt=0.95)
    """Dropout rate of each LSTM's output in training; null: chosen by the number of epochs and the size of
    the network for the length of the text."""
    coupled_gates: bool = False
    """Whether the LSTMs' input gate is one minus the forget gate, which has a quarter fewer weights to
    train."""
    context: int | None = Field(None, ge=2, le=64)
    """Context length of a window network in characters; null: a recurrent state, no limit."""

    @property
    def lstm_weights(self) -> int:
        """The number of weights of the LSTM layers, without biases and one-hot inputs."""
        gates = (3 if self.coupled_gates else 4) * self.units
        return gates * ((self.embedding or 0) + self.units + 2 * self.units * (self.layers - 1))


class Budget(Frozen):
    """When training ends; exactly one field is set."""

    epochs: float | None = Field(None, gt=0, le=10_000, description="Passes over the training text.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps.")
    seconds: float | None = Field(None, ge=1, le=30 * 86400)
    """Wall-clock seconds from the first step on; a speed measurement fixes the step count."""

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
    weight_decay: float = Field(0.2, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    clip_norm: float = Field(1.0, gt=0, le=1000, description="Gradients are clipped to this global norm.")
    preconditioning: bool = False
    """Whether the gradients of recurrent weights are preconditioned (one-sided Shampoo) before AdamW."""
    early_stopping: bool = False
    """Whether a run ends before its budget is used up if held-out loss has not been better at four
    evaluations in a row and their median rises."""
    budget: Budget = Budget(seconds=60)
    validation_fraction: float = Field(0.1, ge=0.005, le=0.5)
    """Fraction of the text, at its end, held out for validation."""
    seed: int = Field(1, ge=0, lt=2**31)


class Mix(Frozen):
    """A second text in a fraction of each batch's rows: the lecture notes' MixIterator."""

    corpus: str = Field(max_length=128, description="The id or name of an uploaded corpus.")
    teacher: str | None = Field(None, max_length=128)
    """A teacher model, `name` or `name@version`, whose predictions are the targets on the second text; null:
    the text's next characters are."""
    targets: MixTargets = "text"
    """Training targets of these rows: the text's next character, or the teacher's distribution (the default
    with a teacher), a character sampled from it, or its most likely one."""
    fraction: float = Field(0.25, gt=0, lt=1, description="Fraction of the rows that hold the second text.")

    @model_validator(mode="before")
    @classmethod
    def _targets_of_a_teacher(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("teacher") and "targets" not in data:
            return data | {"targets": "distribution"}
        return data

    @model_validator(mode="after")
    def _teacher_and_targets_agree(self) -> Self:
        if self.teacher and self.targets == "text":
            raise ValueError("targets `text` use no teacher; leave `teacher` out or choose other targets")
        if not self.teacher and self.targets != "text":
            raise ValueError(f"targets `{self.targets}` need a `teacher`")
        return self


class SuggestionConfig(Frozen):
    """Which lines of records are suggested."""

    columns: list[Column] | None = Field(None, min_length=1, max_length=3)
    """What is in a line, separated by tabs: `text`, then how often it occurs (`count`) or where it comes from
    (`source`), or both. Only the text is trained on. Default: `text` and `count` if all of the first lines
    end with a tab and a whole number, else `text`."""
    minimum_count: int = Field(1, ge=1, le=1_000_000_000)
    """Lines that occur fewer times are never suggested."""
    minimum_sources: int = Field(1, ge=1, le=1_000_000)
    """Lines from fewer sources are never suggested. Needs a column `source`."""
    exclude: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field([], max_length=10_000)
    """Texts that are never suggested, whatever their case and accents."""
    exclude_patterns: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field([], max_length=16)
    """RE2 expressions; texts in which one matches are never suggested."""

    @model_validator(mode="after")
    def _columns_are_complete(self) -> Self:
        columns = self.columns or ["text"]
        if columns[0] != "text" or len(set(columns)) < len(columns):
            raise ValueError("columns begin with `text`, and have each other one once")
        if self.minimum_sources > 1 and "source" not in columns:
            raise ValueError("minimum_sources needs a column `source` in `columns`")
        return self


# How these were found: docs/engineering/training-recipes.md.
PRESETS: dict[Preset, tuple[NetworkConfig, TrainingConfig]] = {
    "tiny": (
        NetworkConfig(units=256, dropout=None, coupled_gates=True),
        TrainingConfig(learning_rate=1e-2, early_stopping=True),
    ),
    "small": (NetworkConfig(dropout=None, coupled_gates=True), TrainingConfig(early_stopping=True)),
    "medium": (
        NetworkConfig(layers=2, dropout=None, coupled_gates=True),
        TrainingConfig(learning_rate=8e-3, preconditioning=True, early_stopping=True),
    ),
    "large": (
        NetworkConfig(layers=2, units=1024, embedding=96, dropout=None, coupled_gates=True),
        TrainingConfig(rows=64, window=64, learning_rate=3e-3, early_stopping=True),
    ),
}

MINIMUM_CHARACTERS = 200
"""Minimum length of a training text; the validation split of a shorter one is too small to measure."""

MINIMUM_HELD_OUT_CHARACTERS = 20
