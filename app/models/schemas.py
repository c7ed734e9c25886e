"""Saved models."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, computed_field

from nextchar.app.http.schemas import Page, RequestBody, with_examples
from nextchar.models.config import NetworkConfig, Preset, PresetOption, TrainingConfig
from nextchar.models.saved_model import Card, FileEntry
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.vocabulary import Alphabet
from nextchar.store.aliases import AliasMove
from nextchar.store.ids import NAME_PATTERN

EXAMPLE: dict[str, Any] = {
    "id": "nietzsche@1",
    "object": "model",
    "name": "nietzsche",
    "version": 1,
    "created_at": 1795563730,
    "created": 1795563730,
    "owned_by": "nextchar",
    "job": "job_0197c2a1b3c4d5e6f7a8b",
    "corpus": "corpus_98b1f0a4c2d5e6f708192a3b",
    "network": NetworkConfig().model_dump(),
    "parameters": 356693,
    "aliases": ["champion"],
    "training": TrainingConfig().model_dump(),
    "started_from": None,
    "alphabet": "characters",
    "kind": "text",
    "characters": "\n !(),-.:;?ABCabc",
    "report": {"validation_bits_per_character": 1.96},
    "files": {"model.onnx": {"bytes": 1428000, "sha256": "0f" * 32}},
}


class ModelSummary(BaseModel):
    """One version of a model, in a list."""

    model_config = with_examples(
        {k: v for k, v in EXAMPLE.items() if k not in ("training", "kind", "characters", "report", "files")}
    )

    id: str = Field(
        description="`name@version`; in calls, the bare name means the newest version, and `name@alias` the"
        " version that the alias points to."
    )
    object: Literal["model"] = "model"
    name: str
    version: int
    created_at: int = Field(description="Unix seconds, UTC.")
    job: str | None = Field(description="The job that trained it.")
    corpus: str | None = Field(description="The corpus it was trained on, which may have been deleted since.")
    started_from: str | None = Field(None, description="The model whose weights its training started from.")
    network: NetworkConfig
    parameters: int = Field(description="Number of weights.")
    aliases: list[str] = Field([], description="Those that point to this version.")
    owned_by: Literal["nextchar"] = Field("nextchar", description="For OpenAI's clients.")

    @classmethod
    def of(cls, card: Card, moves: Sequence[AliasMove] = ()) -> Self:
        """Return the description of a card's model; `moves` has the newest of each alias, of any model."""
        fields = {name: getattr(card, name) for name in cls.model_fields if name in Card.model_fields}
        aliases = [move.alias for move in moves if move.target == card.reference]
        return cls.model_validate(fields | {"id": card.reference, "aliases": aliases}, from_attributes=True)

    @computed_field(description="`created_at`, for OpenAI's clients.")  # type: ignore[prop-decorator]
    @property
    def created(self) -> int:
        """Unix seconds, UTC."""
        return self.created_at


class DamagedModel(BaseModel):
    """A version that cannot be used because its card is damaged or of a newer format."""

    model_config = with_examples(
        {
            "id": "nietzsche@2",
            "code": "model_damaged",
            "message": "model_cards/nietzsche/000002.json is damaged: it is not a JSON object",
        }
    )

    id: str = Field(description="`name@version`.")
    code: str = Field(description="The error code of calls with this version.")
    message: str = Field(description="The problem. Restore the card from a backup, or delete the version.")


class ModelPage(Page[ModelSummary]):
    """A page of models, and the damaged ones."""

    damaged: list[DamagedModel] = Field(
        [], description="All damaged versions, which the list omits; the same on every page."
    )


class ModelRename(RequestBody):
    """A new name for one version of a model."""

    model_config = with_examples({"name": "nietzsche-small"})

    name: str = Field(pattern=f"^{NAME_PATTERN}$", description="The new name.")


class ModelBody(ModelSummary):
    """One version of a model, with all information of its card."""

    model_config = with_examples(EXAMPLE)

    preset: PresetOption | None = Field(
        None, description="The preset of its job; null: the architecture has none, or not known."
    )
    chosen_preset: Preset | None = Field(None, description="What preset `auto` chose.")
    training: TrainingConfig
    alphabet: Alphabet = Field(
        "characters", description="The unit of text: a code point after NFC, or a byte of the UTF-8."
    )
    kind: TextKind | None = Field(
        None,
        description="What its training text is. A model of `records` reads each prompt after a newline. Null:"
        " not known, as for older models.",
    )
    characters: str = Field(description="Its vocabulary, in code point order; bytes are U+0000 to U+00FF.")
    report: dict[str, Any] = Field(description="Results of the training run.")
    files: dict[str, FileEntry] = Field(
        description="Those that `/v1/models/{model}/files/{name}` returns, by name."
    )
