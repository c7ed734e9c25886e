"""What the launcher reads from the environment: the API's settings, checked before anything starts."""

from typing import Self

from pydantic import Field

from app.settings import ApiSettings
from store.settings import load_settings


class LauncherSettings(ApiSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    stop_grace_s: float = Field(
        30.0, ge=0, description="Seconds that a worker gets to write a checkpoint when the stack stops."
    )

    @property
    def given_redis_url(self) -> str | None:
        """The Redis the user named, None if an embedded one is to be started."""
        return self.redis_url if "redis_url" in self.model_fields_set else None

    @classmethod
    def load(cls) -> Self:
        """Read the environment; on a wrong value print one line a variable and exit with status 2."""
        return load_settings(cls)
