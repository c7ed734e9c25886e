"""Whether the service lives and can work."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether every part that requests need works."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready", "down": []}]})

    status: Literal["ready", "not_ready"]
    down: list[Literal["redis", "storage"]] = Field(description="The parts that do not answer.")
