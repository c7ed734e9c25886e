"""The launcher's settings: those of the API, and its own. Invalid ones stop the start."""

from typing import Self

from pydantic import Field, model_validator

from nextchar.app.rooms import ApiSettings
from nextchar.launcher.valkey import MAX_BYTES
from nextchar.store.settings import StoreSettings


class InstallationSettings(StoreSettings):
    """What `nextchar admin` needs: the storage and its Redis, which may be the embedded Valkey."""

    valkey_max_bytes: int = Field(MAX_BYTES, ge=16 << 20)
    """Memory of the embedded Valkey for data."""


class LauncherSettings(ApiSettings, InstallationSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    stop_grace_s: float = Field(30.0, ge=0)
    """Seconds that the worker has to save a checkpoint when the stack stops."""

    @model_validator(mode="after")
    def _valkey_has_room_for_more_than_streams(self) -> Self:
        if self.given_redis_url is None and self.valkey_max_bytes < 2 * self.max_stream_bytes:
            raise ValueError(
                f"NEXTCHAR_MAX_STREAM_BYTES={self.max_stream_bytes} is more than half of"
                f" NEXTCHAR_VALKEY_MAX_BYTES={self.valkey_max_bytes}; the queue needs memory too"
            )
        return self
