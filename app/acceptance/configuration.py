"""The settings of the events of suggestions."""

from pydantic import Field

from nextchar.app.core_settings import CoreSettings


class AcceptanceSettings(CoreSettings):
    """A part of `nextchar.app.settings.ApiSettings`."""

    acceptance_retention_days: float = Field(
        90.0, ge=1, le=3660, description="Days for which the counts of events of suggestions are kept."
    )
    event_memory_bytes: int = Field(
        64 << 20,
        ge=1 << 20,
        description="Redis memory for the ids of events and suggestions, so that each counts once: within a"
        " day, or until there are more than fit.",
    )
