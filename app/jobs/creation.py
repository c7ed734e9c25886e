"""Creation of a training job: access checks, the plan, the queue."""

import contextlib
from collections.abc import Iterator

from nextchar.app.access.permissions import Access
from nextchar.app.http.disk_watermark import DiskWatermark
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.plans import plan
from nextchar.app.jobs.schemas import JobCreate
from nextchar.models.errors import Busy, DomainError, NotFound
from nextchar.store.jobs import Job


def create_job(
    control: JobControl,
    access: Access,
    body: JobCreate,
    *,
    watermark: DiskWatermark,
    memory_limit_bytes: int,
    learning_rate_multiplier: float = 1.0,
    idempotency_key: str | None = None,
    job_id: str | None = None,
) -> Job:
    """Queue a job of this caller; return it, or the one that the idempotency key has created before.

    `learning_rate_multiplier` multiplies the rate of the preset; `job_id` is as in `JobControl.submit`.

    Raises:
        Forbidden: the caller may not use a model that the request names.
        NotFound: a corpus or a model that the request names does not exist or is not accessible.
        InvalidInput: as `plan`.
        Conflict: the idempotency key was used with another body.
        Unavailable: the queue does not respond.
        Busy: the caller's key has as many jobs as it may have.
        StorageFull: the disk is nearly full.
    """
    teacher = body.mix.teacher if body.mix else None
    for model in filter(None, (body.name, body.start_from, teacher)):
        access.check_model(model)
    text = body.model_dump_json().encode()
    key = access.scoped_idempotency_key(idempotency_key)
    if key and (job := control.submitted(key, text)):
        return job
    watermark.check()
    corpus = access.get_corpus(body.corpus)
    with _as("start_from"):
        start = access.models.get(body.start_from).card if body.start_from is not None else None
    with _as("mix.corpus"):
        second = access.get_corpus(body.mix.corpus) if body.mix else None
    with _as("mix.teacher"):
        teacher_card = access.models.get(teacher).card if teacher is not None else None
    request = plan(
        body,
        corpus,
        memory_limit_bytes=memory_limit_bytes,
        start=start,
        second=second,
        teacher=teacher_card,
        learning_rate_multiplier=learning_rate_multiplier,
    )
    max_jobs = access.key.max_jobs if access.key else None
    return control.submit(
        request, key=key, body=text, created_by=access.key_name, max_jobs=max_jobs, job_id=job_id
    )


def resume_job(control: JobControl, access: Access, job_id: str) -> Job:
    """Queue a paused or failed job again; it counts for the key that created it, if that is the caller's.

    Raises as `JobControl.resume`, and Busy as `create_job`.
    """
    job = access.get_job(job_id)
    if access.key is None or job.created_by != access.key.name:
        return control.resume(job.id)
    control.check_quota(job.created_by, access.key.max_jobs, but=job)
    resumed = control.resume(job.id)
    try:
        control.check_quota(job.created_by, access.key.max_jobs, but=resumed)
    except Busy:  # of several concurrent requests for the last place
        with contextlib.suppress(DomainError):  # it runs already
            control.pause(resumed.id)
        raise
    return resumed


@contextlib.contextmanager
def _as(field: str) -> Iterator[None]:
    """Name the field of the request in a NotFound."""
    try:
        yield
    except NotFound as error:
        raise NotFound(f"{field}: {error.message}", code=error.code, param=field) from None
