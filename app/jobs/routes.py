"""/v1/jobs: training jobs are created, followed, cancelled, paused and resumed."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.event_streams import Events, EventStream, Numbered, ServerEvent, stream_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import (
    DEFAULT_LIMIT,
    MAX_EVENT_NUMBER,
    After,
    IdempotencyKey,
    LastEventId,
    Limit,
    Page,
    paginate,
)
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.app.jobs import control
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.schemas import (
    EXAMPLE,
    EXAMPLE_EVENT,
    EventBody,
    JobBodies,
    JobBody,
    JobCancel,
    JobCreate,
    JobFeeds,
    events_so_far,
)
from nextchar.store.jobs import Job, JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=DocumentRoute)

CancelBody = Annotated[JobCancel | None, Body(examples=[{"keep_best": True}])]

_EVENTS_RESPONSE = stream_responses(
    "A list, or with `Accept: text/event-stream` a stream that ends with `done`, the job.",
    {"object": "list", "data": [EXAMPLE_EVENT], "has_more": False},
    f"id: 3\nevent: metrics\ndata: {json.dumps(EXAMPLE_EVENT)}\n\n",
)


@router.post("", status_code=202, responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503, 507))
@needs("train", body=SMALL_JSON)
def create_job(
    services: ServicesDep,
    access: AccessDep,
    body: JobCreate,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue a training job. Every error that can be known in advance is reported here, not by the worker."""
    job = control.create_job(
        services[JobControl],
        access,
        body,
        watermark=services.watermark,
        memory_limit_bytes=services.settings.training_memory_bytes,
        idempotency_key=idempotency_key,
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return services[JobBodies].one(job)


@router.get("", responses=error_responses(422, 503))
@needs("read", "train")
def list_jobs(
    services: ServicesDep, access: AccessDep, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[JobBody]:
    """List jobs, newest first."""
    page, has_more = paginate(access.list_jobs(), lambda job: job.id, after=after, limit=limit)
    return Page(data=services[JobBodies].many(page), has_more=has_more)


@router.get("/{job}", responses=error_responses(404, 422, 503))
@needs("read", "train")
def get_job(services: ServicesDep, access: AccessDep, job: str) -> JobBody:
    """Get a job: its status, position in the queue and progress."""
    return services[JobBodies].one(access.get_job(job))


@router.get(
    "/{job}/events",
    response_model=Page[EventBody],
    responses=_EVENTS_RESPONSE | error_responses(404, 422, 503),
)
@needs("read", "train")
async def get_events(
    services: ServicesDep,
    access: AccessDep,
    request: Request,
    job: str,
    after: Annotated[
        int, Query(ge=0, le=MAX_EVENT_NUMBER, description="Only events with numbers above this.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The most events in a page.")] = 1000,
    last_event_id: LastEventId = None,
) -> Response | Page[EventBody]:
    """Get every metric, sample and message of a job since its start, as a list or as a stream."""
    job_id = (await run_in_thread(access.get_job, job)).id
    after = last_event_id if last_event_id is not None else after
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventStream(_stream(services, job_id, after))
    events = await run_in_thread(events_so_far, services.event_log, services.live, job_id, after=after)
    return Page(data=[EventBody(**event) for event in events[:limit]], has_more=len(events) > limit)


_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": JobBody,
        "description": "The request was sent to the job's worker, which acts on it at its next step.",
        "content": {"application/json": {"example": EXAMPLE | {"asked": "cancel"}}},
    }
}
_CHANGED = _ACCEPTED | error_responses(404, 409, 422, 503, 507)


@router.post("/{job}/cancel", responses=_CHANGED | error_responses(400, 413, 415))
@needs("train", body=SMALL_JSON)
def cancel_job(
    services: ServicesDep, access: AccessDep, job: str, response: Response, body: CancelBody = None
) -> JobBody:
    """Cancel a job. Its progress is discarded, unless `keep_best` asks for the best model so far."""
    keep_best = body is not None and body.keep_best
    return _changed(
        services, services[JobControl].cancel(access.get_job(job).id, keep_best=keep_best), response
    )


@router.post("/{job}/pause", responses=_CHANGED)
@needs("train", body=SMALL_JSON)
def pause_job(services: ServicesDep, access: AccessDep, job: str, response: Response) -> JobBody:
    """Pause a job; `resume` continues it where it paused."""
    return _changed(services, services[JobControl].pause(access.get_job(job).id), response)


@router.post("/{job}/resume", responses=error_responses(404, 409, 422, 503, 507))
@needs("train", body=SMALL_JSON)
def resume_job(services: ServicesDep, access: AccessDep, job: str) -> JobBody:
    """Queue a paused or failed job again; it continues from its last checkpoint, if that still exists."""
    return services[JobBodies].one(control.resume_job(services[JobControl], access, job))


def _changed(services: Services, job: Job, response: Response) -> JobBody:
    # With `keep_best`, a worker must publish the model of a queued job before the job ends.
    response.status_code = 202 if job.status in (JobStatus.RUNNING, JobStatus.QUEUED) else 200
    return services[JobBodies].one(job)


async def _stream(services: Services, job_id: str, after: int) -> Events:
    following: AsyncGenerator[Numbered | Job, None] = services[JobFeeds].follow(job_id, after=after)
    async with contextlib.aclosing(following) as events:
        async for item in events:
            if isinstance(item, Job):
                yield ServerEvent("done", services[JobBodies].one(item))
            else:
                number, event = item
                yield ServerEvent(str(event["type"]), EventBody(**event), id=number)
