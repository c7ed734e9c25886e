"""Training jobs, their events and evaluations in the shapes of OpenAI's fine-tuning.

Losses are in nats per character, as OpenAI's are per token.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from nextchar.app.jobs.schemas import JobBody
from nextchar.app.openai.job_schemas import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningError,
    FineTuningEvent,
    FineTuningJob,
    Hyperparameters,
    MethodBody,
    SupervisedBody,
)

_NATS_PER_BIT = math.log(2)


class OpenAIExtras(BaseModel):
    """What is stored with a job that was created in OpenAI's shape."""

    model: str
    training_file: str
    validation_file: str | None
    learning_rate_multiplier: float | None
    metadata: dict[str, str] | None


def fine_tuning_job(job: JobBody, extras: OpenAIExtras) -> FineTuningJob:
    """Return a job in OpenAI's shape."""
    budget = job.training.budget
    used = Hyperparameters(
        n_epochs="auto" if budget.epochs is None else budget.epochs,
        batch_size=job.training.rows,
        learning_rate_multiplier=extras.learning_rate_multiplier or "auto",
    )
    progress = job.progress
    step = progress.step if progress else None
    left_s = progress.seconds_left if progress and job.status == "running" else None
    is_final = job.status.is_final
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.updated_at if is_final else None,
        estimated_finish=None if left_s is None else int(time.time() + left_s),
        status=job.status,
        fine_tuned_model=job.model,
        result_files=[],
        hyperparameters=used,
        method=MethodBody(type="supervised", supervised=SupervisedBody(hyperparameters=used)),
        seed=job.training.seed,
        trained_tokens=step * job.training.rows * job.training.window if step and is_final else None,
        integrations=[],
        error=FineTuningError(code=job.error.code, message=job.error.message) if job.error else None,
        **extras.model_dump(exclude={"learning_rate_multiplier"}),
    )


def fine_tuning_event(job_id: str, event: dict[str, Any]) -> FineTuningEvent:
    """Return an event of a job in OpenAI's shape."""
    data: dict[str, Any] = event["data"]
    if event["type"] == "metrics":
        losses = _losses(data)
        parts = [f"{label} loss {losses[key]:.4f}" for label, key in _LOSSES if losses[key] is not None]
        message = f"step {data.get('step')}: {', '.join(parts)}"
        data = {"step": data.get("step")} | losses
    else:
        message = str(data.get("text", event["type"]))
    return FineTuningEvent(
        id=f"ftevent-{job_id}-{event['id']}",
        created_at=int(event["at"]),
        type="metrics" if event["type"] == "metrics" else "message",
        message=message,
        data=data,
    )


_LOSSES: Sequence[tuple[str, str]] = (("train", "train_loss"), ("validation", "valid_loss"))


def _losses(data: dict[str, Any]) -> dict[str, float | None]:
    bits = {name: data.get(f"{label}_bits_per_character") for label, name in _LOSSES}
    return {name: None if value is None else round(value * _NATS_PER_BIT, 4) for name, value in bits.items()}


def fine_tuning_checkpoint(job_id: str, model: str, event: dict[str, Any]) -> FineTuningCheckpoint:
    """Return a `metrics` event of a job as a checkpoint in OpenAI's shape."""
    losses, step = _losses(event["data"]), int(event["data"].get("step") or 0)
    return FineTuningCheckpoint(
        id=f"ftckpt-{job_id}-{event['id']}",
        created_at=int(event["at"]),
        fine_tuning_job_id=job_id,
        fine_tuned_model_checkpoint=model,
        step_number=step,
        metrics=CheckpointMetrics(step=step, full_valid_loss=losses["valid_loss"], **losses),
    )
