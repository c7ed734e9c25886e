"""/v1/fine_tuning/jobs: OpenAI's shape of our jobs, under the same ids.

Each call is one of ours with its answer put into other words. What only OpenAI's jobs have (metadata, which
file was the validation's) is kept beside the job. Losses are in nats a character, as OpenAI's are a token.
"""

import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError

from app.compat.bad_request import NOT_422, OpenAIRoute
from app.compat.joined_files import joined
from app.http.access import Reach, ReachDep
from app.http.dependencies import Services, ServicesDep
from app.http.errors import error_responses
from app.http.paging import paginate
from app.routes import jobs as ours
from app.schemas.jobs import BudgetBody, JobBody, JobCreate, TrainingOverride
from app.schemas.lists import DEFAULT_LIMIT, After, Limit, Page
from app.schemas.openai_jobs import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningError,
    FineTuningEvent,
    FineTuningJob,
    FineTuningJobCreate,
    Hyperparameters,
    MethodTold,
    SupervisedTold,
)
from app.services.job_events import events_so_far
from models.config import PRESETS
from models.errors import DomainError, InvalidInput, NotFound
from store.corpora import Corpus

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["openai"], route_class=OpenAIRoute)

_NATS = math.log(2)  # a bit in nats

_CHANGED = NOT_422 | error_responses(404, 409, 503, 507)


class _Beside(BaseModel):
    """What is kept beside a job that was asked for in OpenAI's shape."""

    model: str
    training_file: str
    validation_file: str | None
    learning_rate_multiplier: float | None
    metadata: dict[str, str] | None


@router.post("", responses=NOT_422 | error_responses(404, 409, 413, 415, 503, 507))
def create_fine_tuning_job(
    services: ServicesDep, reach: ReachDep, request: Request, body: FineTuningJobCreate
) -> FineTuningJob:
    """Train a model on an uploaded file."""
    wanted = _hyperparameters(body)
    training = _file(reach, body.training_file, param="training_file")
    whole: AbstractContextManager[tuple[Corpus, float]] = nullcontext((training, 0.1))
    if body.validation_file is not None:
        validation = _file(reach, body.validation_file, param="validation_file")
        whole = joined(reach, training, validation)
    with whole as (corpus, held_out):
        try:
            create = _create(body, wanted, corpus.id, held_out)
            job = ours.create_job(services, reach, request, create, Response())
        except (InvalidInput, NotFound) as error:
            raise _in_their_words(error) from None
    multiplier = wanted.learning_rate_multiplier
    beside = _Beside(
        model=body.model,
        training_file=training.id,
        validation_file=body.validation_file,
        learning_rate_multiplier=None if multiplier == "auto" else multiplier,
        metadata=body.metadata,
    )
    services.blobs.write(_beside_path(job.id), beside.model_dump_json().encode())
    return _told(job, beside)


@router.get("", responses=NOT_422 | error_responses(503))
def list_fine_tuning_jobs(
    services: ServicesDep,
    reach: ReachDep,
    request: Request,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[FineTuningJob]:
    """List jobs, newest first."""
    if any(name.startswith("metadata") for name in request.query_params):
        raise InvalidInput("jobs cannot be looked up by metadata; list them and choose", param="metadata")
    page = ours.list_jobs(services, reach, after, limit)
    return Page(data=[_told(job, _beside(services, job)) for job in page.data], has_more=page.has_more)


@router.get("/{job}", responses=NOT_422 | error_responses(404, 503))
def get_fine_tuning_job(services: ServicesDep, reach: ReachDep, job: str) -> FineTuningJob:
    """Get a job."""
    return _answer(services, ours.get_job(services, reach, job))


@router.post("/{job}/cancel", responses=_CHANGED)
def cancel_fine_tuning_job(services: ServicesDep, reach: ReachDep, job: str) -> FineTuningJob:
    """Cancel a job; a running one obeys at its next step."""
    return _answer(services, ours.cancel_job(services, reach, job, Response()))


@router.post("/{job}/pause", responses=_CHANGED)
def pause_fine_tuning_job(services: ServicesDep, reach: ReachDep, job: str) -> FineTuningJob:
    """Pause a job; a running one obeys at its next step."""
    return _answer(services, ours.pause_job(services, reach, job, Response()))


@router.post("/{job}/resume", responses=_CHANGED)
def resume_fine_tuning_job(services: ServicesDep, reach: ReachDep, job: str) -> FineTuningJob:
    """Queue a paused or failed job again."""
    return _answer(services, ours.resume_job(services, reach, job))


@router.get("/{job}/events", responses=NOT_422 | error_responses(404, 503))
def list_fine_tuning_events(
    services: ServicesDep,
    reach: ReachDep,
    job: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = DEFAULT_LIMIT,
) -> Page[FineTuningEvent]:
    """List what happened to a job, newest first."""
    known = reach.job(job)
    events = events_so_far(services.event_log, services.live, known.id, after=0)
    told = [_event(known.id, event) for event in reversed(events)]
    page, has_more = paginate(told, lambda event: event.id, after=after, limit=limit)
    return Page(data=page, has_more=has_more)


@router.get("/{job}/checkpoints", responses=NOT_422 | error_responses(404, 503))
def list_fine_tuning_checkpoints(
    services: ServicesDep,
    reach: ReachDep,
    job: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Page[FineTuningCheckpoint]:
    """List a job's evaluations, newest first. The best weights become its model; no others are kept."""
    known = reach.job(job)
    events = events_so_far(services.event_log, services.live, known.id, after=0)
    model = known.model or known.request.name
    told = [_checkpoint(known.id, model, e) for e in reversed(events) if e["type"] == "metrics"]
    page, has_more = paginate(told, lambda checkpoint: checkpoint.id, after=after, limit=limit)
    return Page(data=page, has_more=has_more)


# From OpenAI's job to ours


def _hyperparameters(body: FineTuningJobCreate) -> Hyperparameters:
    method = body.method.supervised if body.method else None
    given = [h for h in (body.hyperparameters, method.hyperparameters if method else None) if h]
    if len(given) > 1:
        raise InvalidInput(
            "hyperparameters are given twice; give them in method.supervised alone", param="hyperparameters"
        )
    return given[0] if given else Hyperparameters()


def _create(body: FineTuningJobCreate, wanted: Hyperparameters, corpus_id: str, held_out: float) -> JobCreate:
    is_preset = body.model in PRESETS
    preset: Any = body.model if is_preset else "small"
    rate = None
    if wanted.learning_rate_multiplier != "auto":
        rate = PRESETS[preset][1].learning_rate * wanted.learning_rate_multiplier
    given: dict[str, Any] = (
        {} if wanted.n_epochs == "auto" else {"budget": BudgetBody(epochs=wanted.n_epochs)}
    )
    given |= {"preset": preset} if is_preset else {"start_from": body.model}
    try:
        return JobCreate(
            corpus=corpus_id,
            name=body.suffix or f"ft-{body.model.partition('@')[0]}"[:64],
            training=TrainingOverride(
                rows=None if wanted.batch_size == "auto" else wanted.batch_size, learning_rate=rate
            ),
            validation_fraction=held_out,
            seed=1 if body.seed is None else body.seed % 2**31,
            **given,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(first["msg"], code="invalid_field", param=str(first["loc"][-1])) from None


_THEIRS = {
    "name": "suffix",
    "start_from": "model",
    "corpus": "training_file",
    "rows": "hyperparameters.batch_size",
    "learning_rate": "hyperparameters.learning_rate_multiplier",
}


def _in_their_words(error: InvalidInput | NotFound) -> DomainError:
    """Name the field as OpenAI's job has it."""
    message = error.message.removeprefix(f"{error.param}: ")
    param = _THEIRS.get(error.param or "", error.param)
    return type(error)(f"{param}: {message}", code=error.code, param=param)


def _file(reach: Reach, reference: str, *, param: str) -> Corpus:
    try:
        return reach.corpus(reference)
    except NotFound:
        raise NotFound(f"there is no file {reference!r}", code="file_not_found", param=param) from None


# From our job to OpenAI's


def _beside_path(job_id: str) -> str:
    return f"openai_jobs/{job_id}.json"


def _beside(services: Services, job: JobBody) -> _Beside:
    """Return what was kept beside a job, or what can be told of one that was asked for in our own shape."""
    try:
        return _Beside(**json.loads(services.blobs.read(_beside_path(job.id))))
    except FileNotFoundError:
        return _Beside(
            model=job.start_from or job.network.architecture,
            training_file=job.corpus,
            validation_file=None,
            learning_rate_multiplier=None,
            metadata=None,
        )


def _answer(services: Services, job: JobBody) -> FineTuningJob:
    return _told(job, _beside(services, job))


def _told(job: JobBody, beside: _Beside) -> FineTuningJob:
    budget = job.training.budget
    used = Hyperparameters(
        n_epochs="auto" if budget.epochs is None else budget.epochs,
        batch_size=job.training.rows,
        learning_rate_multiplier=beside.learning_rate_multiplier or "auto",
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
        model=beside.model,
        fine_tuned_model=job.model,
        training_file=beside.training_file,
        validation_file=beside.validation_file,
        result_files=[],
        hyperparameters=used,
        method=MethodTold(supervised=SupervisedTold(hyperparameters=used)),
        seed=job.training.seed,
        trained_tokens=step * job.training.rows * job.training.window if step and is_final else None,
        integrations=[],
        metadata=beside.metadata,
        error=FineTuningError(code=job.error.code, message=job.error.message) if job.error else None,
    )


def _event(job_id: str, event: dict[str, Any]) -> FineTuningEvent:
    data: dict[str, Any] = event["data"]
    if event["type"] == "metrics":
        losses = _losses(data)
        said = [f"{what} loss {losses[key]:.4f}" for what, key in _LOSSES if losses[key] is not None]
        message = f"step {data.get('step')}: {', '.join(said)}"
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
    bits = {
        "train_loss": data.get("train_bits_per_character"),
        "valid_loss": data.get("validation_bits_per_character"),
    }
    return {name: None if value is None else round(value * _NATS, 4) for name, value in bits.items()}


def _checkpoint(job_id: str, model: str, event: dict[str, Any]) -> FineTuningCheckpoint:
    losses, step = _losses(event["data"]), int(event["data"].get("step") or 0)
    return FineTuningCheckpoint(
        id=f"ftckpt-{job_id}-{event['id']}",
        created_at=int(event["at"]),
        fine_tuning_job_id=job_id,
        fine_tuned_model_checkpoint=model,
        step_number=step,
        metrics=CheckpointMetrics(step=step, full_valid_loss=losses["valid_loss"], **losses),
    )
