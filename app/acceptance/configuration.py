"""The settings of the events of suggestions."""

import re

from pydantic import Field, field_validator

from nextchar.app.core_settings import CoreSettings
from nextchar.store.aliases import ALIAS_PATTERN
from nextchar.store.ids import check_name

_ALIAS = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]{{0,47}})@({ALIAS_PATTERN})")


class AcceptanceSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    acceptance_retention_days: float = Field(
        90.0, ge=1, le=3660, description="Days for which the counts of events of suggestions are kept."
    )
    event_memory_bytes: int = Field(
        64 << 20,
        ge=1 << 20,
        description="Redis memory for the ids of events and suggestions, so that each counts once: within a"
        " day, or until there are more than fit.",
    )
    learn_from_use: str = Field(
        "",
        description="Aliases, as `name@alias`, separated by commas, that learn from use: texts that people"
        " accept and type with models of the name are kept, a version is trained on them each night, and the"
        " alias moves to it if its acceptance is not lower. Default: none, and no text is kept.",
    )
    kept_text_days: float = Field(
        30.0, ge=1, le=3660, description="Days for which texts are kept of models that learn from use."
    )

    count_accepted: str = Field(
        "",
        description="Names of models, separated by commas, whose accepted lines are counted: suggestions that"
        " people accept come earlier. Events must have the text. Default: none.",
    )
    accepted_half_life_days: float = Field(
        30.0, ge=0.04, le=3660, description="Days after which half of the count of an accepted line is left."
    )

    @field_validator("learn_from_use")
    @classmethod
    def _are_aliases(cls, aliases: str) -> str:
        found = [_ALIAS.fullmatch(alias) for alias in _listed(aliases)]
        if not all(found):
            raise ValueError("write name@alias, such as cities@live, with a name of at most 48 characters")
        if len({alias[1] for alias in found if alias}) < len(found):
            raise ValueError("a model's name has one alias that learns from use")
        return aliases

    @field_validator("count_accepted")
    @classmethod
    def _are_names(cls, names: str) -> str:
        for name in _listed(names):
            check_name(name)
        return names

    @property
    def counted_names(self) -> list[str]:
        """The names of the models whose accepted lines are counted."""
        return _listed(self.count_accepted)

    @property
    def learning_aliases(self) -> list[tuple[str, str]]:
        """The aliases that learn from use, as name and alias."""
        return [(alias.partition("@")[0], alias.partition("@")[2]) for alias in _listed(self.learn_from_use)]


def _listed(aliases: str) -> list[str]:
    return [alias.strip() for alias in aliases.split(",") if alias.strip()]
