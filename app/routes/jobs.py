"""/v1/jobs: training asked for, watched and stopped."""

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from redis.exceptions import RedisError

from app.http.access import Reach, ReachDep
from app.http.auth import check_model
from app.http.dependencies import Services, ServicesDep
from app.http.errors import error_responses
from app.http.event_streams import Events, EventStream, ServerEvent
from app.http.paging import paginate
from app.schemas.jobs import (
    EXAMPLE,
    EXAMPLE_EVENT,
    EventBody,
    JobBody,
    JobCancel,
    JobCreate,
    JobErrorBody,
    ProgressBody,
)
from app.schemas.lists import DEFAULT_LIMIT, After, Limit, Page
from app.services.job_control import JobControl
from app.services.job_events import events_so_far, follow
from app.services.job_plans import plan
from models.errors import NotFound
from models.saved_model import Card
from store.corpora import Corpus
from store.jobs import Job, JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A request that is sent again with the same key makes no second job.",
    ),
]

CancelBody = Annotated[JobCancel | None, Body(examples=[{"keep_best": True}])]

_EVENTS_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A list, or with `Accept: text/event-stream` a stream that ends with `done`, the job.",
        "content": {
            "application/json": {
                "example": {
                    "object": "list",
                    "data": [EXAMPLE_EVENT],
                    "has_more": False,
                },
            },
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": f"id: 3\nevent: metrics\ndata: {json.dumps(EXAMPLE_EVENT)}\n\n",
            },
        },
    },
}


@router.post("", status_code=202, responses=error_responses(400, 404, 409, 413, 415, 422, 503, 507))
def create_job(
    services: ServicesDep,
    reach: ReachDep,
    incoming: Request,
    body: JobCreate,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue a training job. Whatever can be known to be wrong is refused here, not in the worker."""
    teacher = body.mix.teacher if body.mix else None
    for model in filter(None, (body.name, body.start_from, teacher)):
        check_model(incoming, model)
    control, text = _control(services), body.model_dump_json().encode()
    key = reach.idempotency_key(idempotency_key)
    job = control.submitted(key, text) if key else None
    if job is None:
        memory = services.settings.training_memory_bytes
        request = plan(
            body,
            reach.corpus(body.corpus),
            memory_limit_bytes=memory,
            start=_card(services, "start_from", body.start_from),
            second=_second(reach, body),
            teacher=_card(services, "mix.teacher", teacher),
        )
        job = control.submit(request, key=key, body=text)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _body(services, job, _waiting(services))


@router.get("", responses=error_responses(422, 503))
def list_jobs(
    services: ServicesDep, reach: ReachDep, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[JobBody]:
    """List jobs, newest first."""
    page, has_more = paginate(reach.jobs(), lambda j: j.id, after=after, limit=limit)
    waiting = _waiting(services)
    return Page(data=[_body(services, job, waiting) for job in page], has_more=has_more)


@router.get("/{job}", responses=error_responses(404, 422, 503))
def get_job(services: ServicesDep, reach: ReachDep, job: str) -> JobBody:
    """Get a job: its state, place in the queue and progress."""
    return _body(services, reach.job(job), _waiting(services))


@router.get(
    "/{job}/events",
    response_model=Page[EventBody],
    responses=_EVENTS_ANSWER | error_responses(404, 422, 503),
)
async def get_events(
    services: ServicesDep,
    reach: ReachDep,
    request: Request,
    job: str,
    after: Annotated[int, Query(ge=0, description="Only events with numbers above this.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The most events in a page.")] = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, description="As `after`, for streams.")] = None,
) -> Response | Page[EventBody]:
    """Get every metric, sample and change of a job since its start, as a list or as they happen."""
    known = await run_in_threadpool(reach.job, job)
    after = last_event_id if last_event_id is not None else after
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventStream(_stream(services, known.id, after))
    found = await run_in_threadpool(events_so_far, services.event_log, services.live, known.id, after=after)
    return Page(
        data=[EventBody(**event) for event in found[:limit]],
        has_more=len(found) > limit,
    )


_ASKED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": JobBody,
        "description": "A trainer has been asked and will obey at its next step.",
        "content": {"application/json": {"example": EXAMPLE | {"asked": "cancel"}}},
    }
}
_CHANGED = _ASKED | error_responses(404, 409, 422, 503, 507)


@router.post("/{job}/cancel", responses=_CHANGED | error_responses(400, 413, 415))
def cancel_job(
    services: ServicesDep, reach: ReachDep, job: str, response: Response, body: CancelBody = None
) -> JobBody:
    """Cancel a job. Nothing of it is kept, unless `keep_best` asks for the model it has come to."""
    keep_best = body is not None and body.keep_best
    return _changed(services, _control(services).cancel(reach.job(job).id, keep_best=keep_best), response)


@router.post("/{job}/pause", responses=_CHANGED)
def pause_job(services: ServicesDep, reach: ReachDep, job: str, response: Response) -> JobBody:
    """Pause a job; `resume` goes on from where it was."""
    return _changed(services, _control(services).pause(reach.job(job).id), response)


@router.post("/{job}/resume", responses=error_responses(404, 409, 422, 503, 507))
def resume_job(services: ServicesDep, reach: ReachDep, job: str) -> JobBody:
    """Queue a paused or failed job again; it goes on from its last checkpoint, if that is kept."""
    return _body(services, _control(services).resume(reach.job(job).id), _waiting(services))


def _card(services: Services, field: str, reference: str | None) -> Card | None:
    if reference is None:
        return None
    try:
        return services.models.get(reference).card
    except NotFound as error:
        raise NotFound(f"{field}: {error.message}", code=error.code, param=field) from None


def _second(reach: Reach, body: JobCreate) -> Corpus | None:
    if body.mix is None:
        return None
    try:
        return reach.corpus(body.mix.corpus)
    except NotFound as error:
        raise NotFound(f"mix.corpus: {error.message}", code=error.code, param="mix.corpus") from None


def _control(services: Services) -> JobControl:
    return JobControl(services.blobs, services.jobs, services.live, services.queue, services.redis)


def _changed(services: Services, job: Job, response: Response) -> JobBody:
    # A queued job that was to be stopped is one that a worker must first make a model of.
    response.status_code = 202 if job.status in (JobStatus.RUNNING, JobStatus.QUEUED) else 200
    return _body(services, job, _waiting(services))


async def _stream(services: Services, job_id: str, after: int) -> Events:
    found: AsyncGenerator[dict[str, Any] | Job, None] = follow(
        services.jobs,
        services.event_log,
        services.live,
        job_id,
        after=after,
        is_stopping=services.stopping.is_set,
    )
    async for event in found:
        if isinstance(event, Job):
            yield ServerEvent("done", _body(services, event, []))
        else:
            yield ServerEvent(str(event["type"]), EventBody(**event), id=event["id"])


def _waiting(services: Services) -> list[str]:
    try:
        return services.queue.waiting()
    except (RedisError, OSError):
        return []


def _body(services: Services, job: Job, waiting: list[str]) -> JobBody:
    """Merge the record with what Redis knows of the moment; without Redis the record has to do."""
    progress, asked = job.progress, None
    if not job.status.is_final:
        try:
            progress = services.live.progress(job.id) or progress
            asked = services.live.pending_stop(job.id) if job.status is not JobStatus.PAUSED else None
        except (RedisError, OSError):
            pass
    queued = job.status is JobStatus.QUEUED and job.id in waiting
    return JobBody(
        id=job.id,
        status=job.status,
        created_at=int(job.created_at),
        updated_at=int(job.updated_at),
        name=job.request.name,
        corpus=job.request.corpus,
        network=job.request.network,
        training=job.request.training,
        alphabet=job.request.alphabet,
        coverage=job.request.coverage,
        start_from=job.request.start_from,
        masks=job.request.masks,
        masked_by_default=job.request.masked_by_default,
        mix=job.request.mix,
        attempt=job.attempt,
        queue_position=waiting.index(job.id) + 1 if queued else None,
        asked=asked,
        model=job.model,
        progress=ProgressBody(**progress) if progress else None,
        error=JobErrorBody(**job.error.model_dump()) if job.error else None,
        pause_reason=JobErrorBody(**job.pause_reason.model_dump()) if job.pause_reason else None,
    )
