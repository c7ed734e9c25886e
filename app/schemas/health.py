"""Whether the service lives and can work."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"] = "ok"


class Degradation(BaseModel):
    """One part that does not work."""

    part: Literal["redis", "storage", "worker", "background", "keys"]
    problem: str = Field(description="What is wrong with it.")
    effect: str = Field(description="What that means for users.")


class BackgroundLoop(BaseModel):
    """One of the threads that do something every few seconds."""

    name: str
    last_beat_s: float = Field(description="Seconds since its last round ended, well or not.")
    last_success_s: float = Field(description="Seconds since its last round without an error ended.")
    errors: dict[str, int] = Field(description="Rounds that failed, by the kind of error.")


class Readiness(BaseModel):
    """Whether models can be served, and which parts do not work."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "down": [],
                    "degraded": [],
                    "background": [
                        {"name": "reconciler", "last_beat_s": 1.2, "last_success_s": 1.2, "errors": {}}
                    ],
                }
            ]
        }
    )

    status: Literal["ready", "degraded", "not_ready"] = Field(
        description="`degraded`: models are served, but something named in `degraded` does not work."
    )
    down: list[Literal["redis", "storage"]] = Field(description="The parts that do not answer.")
    degraded: list[Degradation] = Field(default=[], description="Everything that does not work.")
    background: list[BackgroundLoop] = Field(default=[], description="The process's background loops.")
