"""Saved models, their aliases, and network architectures with their defaults. Times are Unix seconds."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, computed_field

from nextchar.app.http.schemas import Page, RequestBody, Shape, with_examples
from nextchar.models.config import ArchitectureName, NetworkConfig, Preset, PresetOption, TrainingConfig
from nextchar.models.saved_model import Card, FileEntry
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.vocabulary import Alphabet
from nextchar.models.validation_errors import NAME_PATTERN
from nextchar.store.aliases import Action, AliasMove, Check, Share

EXAMPLE: dict[str, Any] = {
    "id": "nietzsche@1", "object": "model", "name": "nietzsche", "version": 1, "created_at": 1795563730,
    "created": 1795563730, "owned_by": "nextchar", "job": "job_0197c2a1b3c4d5e6f7a8b",
    "corpus": "corpus_98b1f0a4c2d5e6f708192a3b", "network": NetworkConfig().model_dump(),
    "parameters": 356693, "aliases": ["champion"], "training": TrainingConfig().model_dump(),
    "started_from": None, "alphabet": "characters", "kind": "text", "characters": "\n !(),-.:;?ABCabc",
    "report": {"validation_bits_per_character": 1.96},
    "files": {"model.onnx": {"bytes": 1428000, "sha256": "0f" * 32}},
}  # fmt: skip


Early = Annotated[
    bool,
    Field(description="Whether an early model, `name@job`, responded: its network is still being trained."),
]


class ModelSummary(Shape):
    """One version of a model, in a list."""

    model_config = with_examples(
        {k: v for k, v in EXAMPLE.items() if k not in ("training", "characters", "report", "files")}
    )

    id: str
    """`name@version`; in calls, the bare name means the newest version, and `name@alias` the version that the
    alias points to."""
    object: Literal["model"] = "model"
    name: str
    version: int
    created_at: int = Field(description="Unix seconds, UTC.")
    job: str | None = Field(description="The job that trained it.")
    corpus: str | None = Field(description="The corpus it was trained on, which may have been deleted since.")
    started_from: str | None = Field(None, description="The model whose weights its training started from.")
    network: NetworkConfig
    parameters: int = Field(description="Number of weights.")
    kind: TextKind | None = None
    """What its training text is. A model of `records` reads each prompt after a newline. Null: not known, as
    for older models."""
    bytes: int = Field(0, description="Size of its files.")
    bits_per_character: float | None = None
    """Of its held-out text, by its report; null: it has no report."""
    problems: list[str] = Field([])
    """What its report says is wrong with it, such as that it has learned almost nothing."""
    aliases: list[str] = Field([], description="Those that point to this version.")
    owned_by: Literal["nextchar"] = Field("nextchar", description="For OpenAI's clients.")

    @classmethod
    def of(cls, card: Card, moves: Sequence[AliasMove] = ()) -> Self:
        """Return the description of a card's model; `moves` has the newest of each alias, of any model."""
        fields = {name: getattr(card, name) for name in cls.model_fields if name in Card.model_fields}
        own = {
            "id": card.reference,
            "bytes": sum(file.bytes for file in card.files.values()),
            "bits_per_character": card.report.get("validation_bits_per_character"),
            "problems": card.report.get("problems", []),
            "aliases": [move.alias for move in moves if move.target == card.reference],
        }
        return cls.model_validate(fields | own, from_attributes=True)

    @computed_field(description="`created_at`, for OpenAI's clients.")  # type: ignore[prop-decorator]
    @property
    def created(self) -> int:
        """Unix seconds, UTC."""
        return self.created_at


class DamagedModel(BaseModel):
    """A version that cannot be used because its card is damaged or of a newer format."""

    model_config = with_examples({
        "id": "nietzsche@2", "code": "model_damaged",
        "message": "model_cards/nietzsche/000002.json is damaged: it is not a JSON object",
    })  # fmt: skip

    id: str = Field(description="`name@version`.")
    code: str = Field(description="The error code of calls with this version.")
    message: str = Field(description="The problem. Restore the card from a backup, or delete the version.")


class ModelPage(Page[ModelSummary]):
    """A page of models, and the damaged ones."""

    damaged: list[DamagedModel] = Field([])
    """All damaged versions, which the list omits; the same on every page."""


class ModelRename(RequestBody):
    """A new name for one version of a model."""

    model_config = with_examples({"name": "nietzsche-small"})

    name: str = Field(pattern=f"^{NAME_PATTERN}$", description="The new name.")


class ModelBody(ModelSummary):
    """One version of a model, with all information of its card."""

    model_config = with_examples(EXAMPLE)

    preset: PresetOption | None = None
    """The preset of its job; null: the architecture has none, or not known."""
    chosen_preset: Preset | None = Field(None, description="What preset `auto` chose.")
    training: TrainingConfig
    alphabet: Alphabet = "characters"
    """The unit of text: a code point after NFC, or a byte of the UTF-8."""
    characters: str = Field(description="Its vocabulary, in code point order; bytes are U+0000 to U+00FF.")
    report: dict[str, Any] = Field(description="Results of the training run.")
    files: dict[str, FileEntry]
    """Those that `/v1/models/{model}/files/{name}` returns, by name."""


EXAMPLE_ALIAS: dict[str, Any] = {
    "id": "champion", "object": "alias", "model": "nietzsche", "version": 4, "target": "nietzsche@4",
    "action": "set", "moved_at": 1795563730.2, "moved_by": "deployer",
    "checks": [{"name": "max_bits_per_character", "value": 1.96, "limit": 2.1, "note": None}],
}  # fmt: skip


class AliasRequirements(RequestBody):
    """What a version must meet for an alias to be moved to it."""

    max_bits_per_character: float | None = Field(None, gt=0)
    """Maximum bits per character of its held-out text, by its report."""
    max_regression_bits: float | None = Field(None, ge=0)
    """Maximum increase in bits per character over the alias's current version."""
    calibration: bool = Field(False, description="Whether it must have a calibration.")
    acceptance_over_shown: int | None = Field(None, ge=1)
    """Its acceptance rate must not be below that of the alias's current version, on the days on which
    suggestions of both were shown, and these at least this many times each."""


class AliasShare(RequestBody):
    """Another version of the model, for a comparison: it gets a fraction of the alias's clients."""

    version: Annotated[int, Field(ge=1, lt=10**9)]
    fraction: float = Field(gt=0, lt=1)
    """Of the clients that send a `client_id`; which, is decided by its hash."""


class AliasSet(RequestBody):
    """Where to move an alias."""

    model_config = with_examples(
        {"version": 4, "require": {"max_bits_per_character": 2.1, "max_regression_bits": 0.02}},
        {"version": 4, "share": {"version": 5, "fraction": 0.1}},
    )

    version: Annotated[int, Field(ge=1, lt=10**9, description="A version of the model.")]
    require: AliasRequirements = Field(default_factory=AliasRequirements)
    """The alias is moved only if the version meets all of this; and it must always load."""
    share: AliasShare | None = None
    """A version that some clients get instead; null: all get `version`."""


class AliasBody(Shape):
    """One move of an alias: the newest is where it points to now."""

    model_config = with_examples(EXAMPLE_ALIAS)

    id: str = Field(description="The alias; in calls, the model is `name@alias`.")
    object: Literal["alias"] = "alias"
    model: str = Field(description="The model's name.")
    version: int | None
    """The version that the alias points to; null: the alias is deleted."""
    target: str | None = Field(description="The same as `name@version`.")
    action: Action
    moved_at: float
    moved_by: str | None = Field(description="The name of the API key that moved it.")
    checks: list[Check] = Field(description="What was required of the version, and met.")
    share: Share | None = Field(None, description="The version that some clients get instead.")

    @classmethod
    def of(cls, move: AliasMove) -> Self:
        """Return the description of a move."""
        fields = move.model_dump(include=set(cls.model_fields) & set(AliasMove.model_fields))
        return cls.model_validate(fields | {"id": move.alias, "target": move.target})


class AliasWithHistory(AliasBody):
    """An alias, with all its moves."""

    model_config = with_examples(EXAMPLE_ALIAS | {"history": [EXAMPLE_ALIAS]})

    history: list[AliasBody] = Field(description="All moves, newest first, with this one.")


EXAMPLE_ARCHITECTURE: dict[str, Any] = {
    "id": "nth_char", "object": "architecture", "description": "The character after the last eight.",
    "network": NetworkConfig(architecture="nth_char", units=256, embedding=42, context=8).model_dump(),
    "training": TrainingConfig(rows=32, window=32, weight_decay=0.0).model_dump(exclude={"budget"}),
    "network_options": ["units", "embedding", "context"],
    "training_options": ["rows", "window", "learning_rate", "weight_decay", "clip_norm"], "presets": [],
    "notes_train_nats": 1.8, "notes_measure": "training loss",
}  # fmt: skip


class Recipe(BaseModel):
    """The default training options; the budget is the job's."""

    rows: int
    window: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    preconditioning: bool
    early_stopping: bool


class PresetBody(BaseModel):
    """A named network and recipe."""

    name: Preset
    network: NetworkConfig
    training: Recipe


class ArchitectureBody(Shape):
    """One architecture: its defaults, which of them a job may change, and the lecture notes' result."""

    model_config = with_examples(EXAMPLE_ARCHITECTURE)

    id: ArchitectureName = Field(description="What a job names as `architecture`.")
    object: Literal["architecture"] = "architecture"
    description: str = Field(description="One sentence.")
    network: NetworkConfig = Field(description="The default network.")
    training: Recipe
    network_options: list[str] = Field(description="Fields of a job's `network` that apply to it.")
    training_options: list[str] = Field(description="Fields of a job's `training` that apply to it.")
    presets: list[PresetBody] = Field(description="Values of a job's `preset`; most architectures have none.")
    notes_train_nats: float | None
    """The lecture notes' training loss on Nietzsche, nats per character; null: none."""
    notes_measure: str = Field(description="What `notes_train_nats` measures.")
