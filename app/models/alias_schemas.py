"""Aliases of models. Times are Unix seconds."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.store.aliases import Action, AliasMove

EXAMPLE: dict[str, Any] = {
    "id": "champion",
    "object": "alias",
    "model": "nietzsche",
    "version": 4,
    "target": "nietzsche@4",
    "action": "set",
    "moved_at": 1795563730.2,
    "moved_by": "deployer",
    "checks": [{"name": "max_bits_per_character", "value": 1.96, "limit": 2.1, "note": None}],
}


class AliasRequirements(RequestBody):
    """What a version must meet for an alias to be moved to it."""

    max_bits_per_character: float | None = Field(
        None, gt=0, description="Maximum bits per character of its held-out text, by its report."
    )
    max_regression_bits: float | None = Field(
        None,
        ge=0,
        description="Maximum increase in bits per character over the alias's current version.",
    )
    calibration: bool = Field(False, description="Whether it must have a calibration.")


class AliasSet(RequestBody):
    """Where to move an alias."""

    model_config = with_examples(
        {"version": 4, "require": {"max_bits_per_character": 2.1, "max_regression_bits": 0.02}}
    )

    version: Annotated[int, Field(ge=1, lt=10**9, description="A version of the model.")]
    require: AliasRequirements = Field(
        default_factory=AliasRequirements,
        description="The alias is moved only if the version meets all of this; and it must always load.",
    )


class CheckBody(BaseModel):
    """A requirement that the version met."""

    name: str = Field(description="The field of `require`.")
    value: float | None = Field(description="The figure.")
    limit: float | None
    note: str | None = Field(description="What to know about the figure.")


class AliasBody(BaseModel):
    """One move of an alias: the newest is where it points to now."""

    model_config = with_examples(EXAMPLE)

    id: str = Field(description="The alias; in calls, the model is `name@alias`.")
    object: Literal["alias"] = "alias"
    model: str = Field(description="The model's name.")
    version: int | None = Field(
        description="The version that the alias points to; null: the alias is deleted."
    )
    target: str | None = Field(description="The same as `name@version`.")
    action: Action
    moved_at: float
    moved_by: str | None = Field(description="The name of the API key that moved it.")
    checks: list[CheckBody] = Field(description="What was required of the version, and met.")

    @classmethod
    def of(cls, move: AliasMove) -> Self:
        """Return the description of a move."""
        fields = move.model_dump(include={"model", "version", "action", "moved_at", "moved_by", "checks"})
        return cls.model_validate(fields | {"id": move.alias, "target": move.target})


class AliasWithHistory(AliasBody):
    """An alias, with all its moves."""

    model_config = with_examples(EXAMPLE | {"history": [EXAMPLE]})

    history: list[AliasBody] = Field(description="All moves, newest first, with this one.")
