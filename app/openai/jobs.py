"""/v1/fine_tuning/jobs: training jobs in OpenAI's shape, under the same ids.

What only OpenAI's jobs have (metadata, the validation file) is stored with the job. Losses are in
nats per character, as OpenAI's are per token.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.jobs.control import JobControl, create_job, resume_job
from nextchar.app.jobs.schemas import (
    BudgetBody,
    JobBodies,
    JobBody,
    JobCreate,
    TrainingOverride,
    events_so_far,
)
from nextchar.app.openai.files import get_file, joined_corpus
from nextchar.app.openai.job_schemas import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningError,
    FineTuningEvent,
    FineTuningJob,
    FineTuningJobCreate,
    Hyperparameters,
    MethodBody,
    SupervisedBody,
)
from nextchar.app.openai.schemas import NOT_422, OpenAIRoute
from nextchar.models.config import PresetOption
from nextchar.models.errors import DomainError, InvalidInput, NotFound
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.validation_errors import load_record, requirement
from nextchar.store.corpus import Corpus
from nextchar.store.ids import new_id
from nextchar.store.jobs import Job

_NATS_PER_BIT = math.log(2)

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["OpenAI"], route_class=OpenAIRoute)

_CHANGED = NOT_422 | error_responses(404, 409, 503, 507)


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


@router.post("", responses=NOT_422 | error_responses(404, 409, 413, 415, 503, 507))
@needs("train", body=SMALL_JSON)
def create_fine_tuning_job(
    request: Request, services: ServicesDep, access: AccessDep, body: FineTuningJobCreate
) -> FineTuningJob:
    """Train a model on an uploaded file."""
    hyperparameters = _hyperparameters(body)
    multiplier = hyperparameters.learning_rate_multiplier
    training = get_file(access, body.training_file, param="training_file")
    extras = OpenAIExtras(
        model=body.model,
        training_file=training.id,
        validation_file=body.validation_file,
        learning_rate_multiplier=None if multiplier == "auto" else multiplier,
        metadata=body.metadata,
    )
    source: AbstractContextManager[tuple[Corpus, float]] = nullcontext((training, 0.1))
    if body.validation_file is not None:
        validation = get_file(access, body.validation_file, param="validation_file")
        source = joined_corpus(services, access, training, validation)
    with source as (corpus, held_out):
        # The validation file is the end of the corpus only in the order of its lines.
        keeps_order = body.validation_file is not None and corpus.kind == "records"
        # Stored before the job: the SDKs repeat a request that fails, so no error may follow a queued job.
        job_id = new_id("job")
        services.blobs.write(_extras_path(job_id), extras.model_dump_json().encode())
        try:
            job = create_job(
                services[JobControl],
                access,
                _job_create(body, hyperparameters, corpus.id, held_out, kind="text" if keeps_order else None),
                watermark=services.watermark,
                memory_limit_bytes=services.settings.training_memory_bytes,
                learning_rate_multiplier=1.0 if multiplier == "auto" else multiplier,
                job_id=job_id,
            )
        except Exception as error:
            with suppress(DomainError):
                services.blobs.delete(_extras_path(job_id))
            if isinstance(error, InvalidInput | NotFound):
                raise _rename_params(error) from None
            raise
    set_audit_details(request, about=f"/v1/fine_tuning/jobs/{job.id}")
    return fine_tuning_job(services[JobBodies].one(job), extras)


@router.get("", responses=NOT_422 | error_responses(503))
@needs("read", "train")
def list_fine_tuning_jobs(
    services: ServicesDep,
    access: AccessDep,
    request: Request,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[FineTuningJob]:
    """List jobs, newest first."""
    if any(name.startswith("metadata") for name in request.query_params):
        raise InvalidInput(
            "jobs cannot be filtered by metadata; list them and filter the result", param="metadata"
        )
    page, has_more = paginate(access.list_jobs(), lambda job: job.id, after=after, limit=limit)
    bodies = services[JobBodies].many(page)
    return Page(data=[fine_tuning_job(body, _extras(services, body)) for body in bodies], has_more=has_more)


@router.get("/{job}", responses=NOT_422 | error_responses(404, 503))
@needs("read", "train")
def get_fine_tuning_job(services: ServicesDep, access: AccessDep, job: str) -> FineTuningJob:
    """Get a job."""
    return _body(services, access.get_job(job))


@router.post("/{job}/cancel", responses=_CHANGED)
@needs("train", body=SMALL_JSON)
def cancel_fine_tuning_job(services: ServicesDep, access: AccessDep, job: str) -> FineTuningJob:
    """Cancel a job; a running one stops at its next step."""
    return _body(services, services[JobControl].cancel(access.get_job(job).id))


@router.post("/{job}/pause", responses=_CHANGED)
@needs("train", body=SMALL_JSON)
def pause_fine_tuning_job(services: ServicesDep, access: AccessDep, job: str) -> FineTuningJob:
    """Pause a job; a running one stops at its next step."""
    return _body(services, services[JobControl].pause(access.get_job(job).id))


@router.post("/{job}/resume", responses=_CHANGED)
@needs("train", body=SMALL_JSON)
def resume_fine_tuning_job(services: ServicesDep, access: AccessDep, job: str) -> FineTuningJob:
    """Queue a paused or failed job again."""
    return _body(services, resume_job(services[JobControl], access, job))


@router.get("/{job}/events", responses=NOT_422 | error_responses(404, 503))
@needs("read", "train")
def list_fine_tuning_events(
    services: ServicesDep,
    access: AccessDep,
    job: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = DEFAULT_LIMIT,
) -> Page[FineTuningEvent]:
    """List the events of a job, newest first."""
    record = access.get_job(job)
    events = [fine_tuning_event(record.id, event) for event in _newest_events(services, record)]
    page, has_more = paginate(events, lambda event: event.id, after=after, limit=limit)
    return Page(data=page, has_more=has_more)


@router.get("/{job}/checkpoints", responses=NOT_422 | error_responses(404, 503))
@needs("read", "train")
def list_fine_tuning_checkpoints(
    services: ServicesDep,
    access: AccessDep,
    job: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Page[FineTuningCheckpoint]:
    """List a job's evaluations, newest first. Only the best weights are kept, as the job's model."""
    record = access.get_job(job)
    model = record.model or record.request.name
    metrics = [event for event in _newest_events(services, record) if event["type"] == "metrics"]
    checkpoints = [fine_tuning_checkpoint(record.id, model, event) for event in metrics]
    page, has_more = paginate(checkpoints, lambda checkpoint: checkpoint.id, after=after, limit=limit)
    return Page(data=page, has_more=has_more)


# From OpenAI's request to a job's


def _hyperparameters(body: FineTuningJobCreate) -> Hyperparameters:
    method = body.method.supervised if body.method else None
    candidates = [h for h in (body.hyperparameters, method.hyperparameters if method else None) if h]
    if len(candidates) > 1:
        raise InvalidInput(
            "hyperparameters are given twice; give them only in method.supervised", param="hyperparameters"
        )
    return candidates[0] if candidates else Hyperparameters()


def _job_create(
    body: FineTuningJobCreate,
    hyperparameters: Hyperparameters,
    corpus_id: str,
    held_out: float,
    *,
    kind: TextKind | None,
) -> JobCreate:
    is_preset = body.model in get_args(PresetOption)
    epochs, rows = hyperparameters.n_epochs, hyperparameters.batch_size
    options: dict[str, Any] = {} if epochs == "auto" else {"budget": BudgetBody(epochs=epochs)}
    options |= {"preset": body.model} if is_preset else {"start_from": body.model}
    try:
        return JobCreate(
            corpus=corpus_id,
            name=body.suffix or f"ft-{body.model.partition('@')[0]}"[:64],
            training=TrainingOverride(rows=None if rows == "auto" else rows),
            validation_fraction=held_out,
            kind=kind,
            seed=1 if body.seed is None else body.seed % 2**31,
            **options,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(requirement(first), code="invalid_field", param=str(first["loc"][-1])) from None


_OPENAI_PARAMS = {
    "name": "suffix",
    "start_from": "model",
    "corpus": "training_file",
    "rows": "hyperparameters.batch_size",
    "learning_rate": "hyperparameters.learning_rate_multiplier",
}


def _rename_params(error: InvalidInput | NotFound) -> DomainError:
    """Return the error with OpenAI's name of the field."""
    message = error.message.removeprefix(f"{error.param}: ")
    error.param = _OPENAI_PARAMS.get(error.param or "", error.param)
    if error.code == "model_not_found":
        message += f", or train a new one with {', '.join(get_args(PresetOption))}"
    error.message = f"{error.param}: {message}"
    return error


def _newest_events(services: Services, job: Job) -> list[dict[str, Any]]:
    return events_so_far(services.event_log, services.live, job.id, after=0)[::-1]


def _extras_path(job_id: str) -> str:
    return f"openai_jobs/{job_id}.json"


def _extras(services: Services, job: JobBody) -> OpenAIExtras:
    """Return what is stored with a job; for one that was not created in OpenAI's shape, defaults."""
    try:
        return OpenAIExtras(**load_record(services.blobs.read_record(_extras_path(job.id))))
    except (FileNotFoundError, ValueError, TypeError):  # but for the first: damaged in storage
        return OpenAIExtras(
            model=job.start_from or job.network.architecture,
            training_file=job.corpus,
            validation_file=None,
            learning_rate_multiplier=None,
            metadata=None,
        )


def _body(services: Services, job: Job) -> FineTuningJob:
    body = services[JobBodies].one(job)
    return fine_tuning_job(body, _extras(services, body))
