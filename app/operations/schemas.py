"""Liveness and readiness of the service."""

from typing import Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import with_examples


class Alive(BaseModel):
    """The process is running."""

    model_config = with_examples({"status": "ok"})

    status: Literal["ok"] = "ok"


class Degradation(BaseModel):
    """One part that does not work."""

    part: Literal["redis", "storage", "worker", "background", "keys", "kernels"]
    problem: str = Field(description="The problem.")
    effect: str = Field(description="The consequence for users.")


class BackgroundLoop(BaseModel):
    """One of the periodic background tasks."""

    name: str
    last_beat_s: float = Field(description="Seconds since its last iteration ended, with an error or not.")
    last_success_s: float = Field(description="Seconds since its last iteration without an error ended.")
    errors: dict[str, int] = Field(description="Failed iterations, by type of error.")


class Readiness(BaseModel):
    """Whether models can be served, and which parts do not work."""

    model_config = with_examples(
        {
            "status": "ready",
            "down": [],
            "degraded": [],
            "background": [{"name": "reconciler", "last_beat_s": 1.2, "last_success_s": 1.2, "errors": {}}],
        }
    )

    status: Literal["ready", "degraded", "not_ready"] = Field(
        description="`degraded`: models are served, but the parts listed in `degraded` do not work."
    )
    down: list[Literal["redis", "storage", "kernels"]] = Field(
        description="The parts that do not respond, and `kernels` while these are not loaded."
    )
    degraded: list[Degradation] = Field(default=[], description="All parts that do not work.")
    background: list[BackgroundLoop] = Field(default=[], description="The process's background loops.")
