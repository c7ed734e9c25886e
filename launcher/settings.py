"""What the launcher reads from the environment: the API's settings, checked before anything starts."""

from typing import Self

from pydantic import Field, model_validator

from app.settings import ApiSettings
from launcher.valkey import MAX_BYTES
from store.settings import load_settings


class LauncherSettings(ApiSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    stop_grace_s: float = Field(
        30.0, ge=0, description="Seconds that a worker gets to write a checkpoint when the stack stops."
    )

    valkey_max_bytes: int = Field(
        MAX_BYTES, ge=16 << 20, description="Memory that the embedded Valkey may take for data."
    )

    @model_validator(mode="after")
    def _valkey_has_room_for_more_than_streams(self) -> Self:
        if self.given_redis_url is None and self.valkey_max_bytes < 2 * self.max_stream_bytes:
            raise ValueError(
                f"NEXTCHAR_MAX_STREAM_BYTES={self.max_stream_bytes} is more than half of"
                f" NEXTCHAR_VALKEY_MAX_BYTES={self.valkey_max_bytes}; the queue needs room beside the streams"
            )
        return self

    @property
    def given_redis_url(self) -> str | None:
        """The Redis the user named, None if an embedded one is to be started."""
        return self.redis_url if "redis_url" in self.model_fields_set else None

    @classmethod
    def load(cls) -> Self:
        """Read the environment; on a wrong value print one line a variable and exit with status 2."""
        return load_settings(cls)
