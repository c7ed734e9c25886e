"""What a client can do with jobs: submit, once for each idempotency key, cancel, pause, resume.

    idempotency/<hash of the key>   the hash of the first request's body, and the id of what it creates

This record is created once, before the thing with this id, so concurrent requests agree on the id; a request
that is repeated with the same key gets what the first one has created.

The status of a waiting job is changed at once. A running job gets a request through Redis, which its worker
follows at the next step. The record in storage decides: the first to write the next transition wins.

Creation of a training job: access checks, the plan, the queue.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from nextchar.app.access.permissions import Access
from nextchar.app.http.limits import JOBS_OF_KEY, DiskWatermark
from nextchar.app.jobs.plans import plan
from nextchar.app.jobs.schemas import JobCreate
from nextchar.models.base import base_references, find_base, is_base
from nextchar.models.errors import Busy, Conflict, DomainError, NotFound, Unavailable
from nextchar.models.saved_model import Card
from nextchar.models.validation_errors import load_record
from nextchar.store import tracing
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.ids import new_id
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.logs import REQUEST_ID
from nextchar.store.queue import TrainingQueue

Kind = Literal["job", "batch"]
T = TypeVar("T")

log = logging.getLogger("nextchar.api")

_MAX_RACES = 5  # transitions by others, during one call, before it raises Conflict


@dataclass(frozen=True)
class IdempotencyKeys:
    """The keys in one storage, for one kind of thing that requests create."""

    blobs: Blobs
    kind: Kind

    def created(self, key: str, body: bytes, get: Callable[[str], T]) -> T | None:
        """Return what an earlier request with this key has created, which `get` gets by its id, or None.

        Raises:
            Conflict: the earlier request had another body (code `idempotency_key_reused`).
            Unavailable: its record is damaged (code `idempotency_key_damaged`).
        """
        earlier = self._find(key, body)
        try:
            return get(earlier) if earlier else None
        except NotFound:  # that request ended between its two writes; this one completes it
            return None

    def _find(self, key: str, body: bytes) -> str | None:
        path = self._path(key)
        try:
            record = load_record(self.blobs.read_record(path))
            sent, created = record["body"], record[self.kind]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Unavailable(
                f"{path} is damaged; use another Idempotency-Key, or delete that record",
                code="idempotency_key_damaged",
                param="Idempotency-Key",
            ) from None
        if sent != hashlib.sha256(body).hexdigest():
            raise Conflict(
                f"this Idempotency-Key was used for another {self.kind}; use a new key for a new {self.kind}",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return str(created)

    def id_for(self, key: str | None, body: bytes) -> str:
        """Return the id for a request: a new one, or that of an earlier request. Raises as `created`."""
        new = new_id(self.kind)
        if key is None:
            return new
        record = {"body": hashlib.sha256(body).hexdigest(), self.kind: new}
        if self.blobs.create(self._path(key), json.dumps(record).encode()):
            return new
        return self._find(key, body) or new  # None: the record has been deleted meanwhile

    def _path(self, key: str) -> str:
        # Keys of jobs have no prefix, as in earlier releases; none begins with a newline.
        scoped = key if self.kind == "job" else f"\n{self.kind}\n{key}"
        return f"idempotency/{hashlib.sha256(scoped.encode()).hexdigest()}"


@dataclass(frozen=True)
class JobControl:
    """Changes jobs in the storage and the queue."""

    blobs: Blobs
    jobs: Jobs
    live: Live
    queue: TrainingQueue
    redis: Redis

    def submitted(self, key: str, body: bytes) -> Job | None:
        """Return the job of an earlier request with this Idempotency-Key, as `IdempotencyKeys.created`."""
        return self._keys.created(key, body, self.jobs.get)

    def submit(
        self,
        request: JobRequest,
        *,
        key: str | None,
        body: bytes,
        created_by: str | None = None,
        max_jobs: int | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Record a job and queue it; requests with the same key create it only once.

        Without a key the job can get a `job_id` that the caller has made.
        `created_by` is the name of the caller's API key, and `max_jobs` how many queued and running jobs it
        may have. The jobs are counted before and after the job is recorded, so concurrent requests never
        exceed it.

        Raises:
            Busy: the API key has that many (code `job_quota_reached`); nothing was written.
            NotFound: a corpus was deleted concurrently; nothing was written.
            Unavailable: the queue does not respond (code `queue_unavailable`); nothing was written.
            Conflict: a concurrent request has used the key with another body.
        """
        self._check_queue()
        self.check_quota(created_by, max_jobs)
        try:
            job = self.jobs.create(
                request,
                job_id=job_id or self._keys.id_for(key, body),
                created_by=created_by,
                request_id=REQUEST_ID.get() or None,
                traceparent=tracing.traceparent(),
            )
        except Conflict:
            earlier = self.submitted(key, body) if key else None
            if earlier is None:
                raise
            return earlier
        try:
            self.check_quota(created_by, max_jobs, but=job)
            self._check_corpora(request)
        except (Busy, NotFound):
            self.jobs.delete(job)  # not in the queue yet
            raise
        log.info("%s is queued", job.id, extra={"job_id": job.id})
        self._send(job)
        return job

    def check_quota(self, created_by: str | None, max_jobs: int | None, *, but: Job | None = None) -> None:
        """Check that one more job of an API key may be queued. Raises Busy (code `job_quota_reached`)."""
        if max_jobs is None:
            return
        active = (JobStatus.QUEUED, JobStatus.RUNNING)
        count = sum(
            job.created_by == created_by and job.status in active and job.id != (but.id if but else None)
            for job in self.jobs.unfinished()
        )
        if count >= max_jobs:
            raise JOBS_OF_KEY.refusal(
                f"this key has {count} queued and running jobs and may have {max_jobs}; wait for one to end,"
                " or cancel or pause one"
            )

    def cancel(self, job_id: str, *, keep_best: bool = False) -> Job:
        """Cancel a waiting or paused job; request it of a running one.

        With `keep_best`, a worker publishes the best model of a job that has started, then cancels it; a
        paused job is queued again for that.

        Raises:
            NotFound: there is no such job.
            Conflict: the job has ended.
            Unavailable: Redis does not respond.
        """
        return self._cancel_keeping_best(job_id) if keep_best else self._stop(job_id, JobStatus.CANCELLED)

    def pause(self, job_id: str) -> Job:
        """Pause a waiting job; request it of a running one. Raises as `cancel`.

        A job that was paused because of the storage is then not resumed automatically.
        """
        return self._stop(job_id, JobStatus.PAUSED)

    def resume(self, job_id: str) -> Job:
        """Queue a paused or failed job again; it continues from its checkpoint, if that is kept.

        Raises as `cancel`.
        """
        with contextlib.suppress(RedisError, OSError):
            if self.live.pending_stop(job_id) == "pause":  # done already, but still in Redis
                self.live.acknowledge_stop(job_id)
        return self._queue_again(job_id)

    def _queue_again(self, job_id: str) -> Job:
        self._check_queue()
        job = self.jobs.get(job_id)
        if job.status not in (JobStatus.PAUSED, JobStatus.FAILED):
            raise Conflict(f"job {job.id} is {job.status}, not paused or failed", code=f"job_{job.status}")
        if job.status is JobStatus.FAILED:
            self.live.acknowledge_stop(job.id)  # of a request that came when the job had failed
        moved = self.jobs.move(
            job, JobStatus.QUEUED, attempts_without_progress=0, stepless_attempts=0, storage_pauses=0
        )
        self._send(moved)
        return moved

    def _cancel_keeping_best(self, job_id: str) -> Job:
        self._check_queue()
        job = self.jobs.get(job_id)
        if job.attempt == 0 or job.status.is_final:  # nothing to keep, or too late
            return self._stop(job_id, JobStatus.CANCELLED)
        self.live.request_stop(job.id, "cancel_keep_best")
        job = self.jobs.get(job_id)  # its worker may have ended the attempt meanwhile
        return self._queue_again(job_id) if job.status is JobStatus.PAUSED else job

    def _stop(self, job_id: str, to: JobStatus) -> Job:
        has_requested = False
        for race in range(_MAX_RACES):
            job = self.jobs.get(job_id)
            if job.status is JobStatus.RUNNING:
                has_requested = True
                self.live.request_stop(job.id, "cancel" if to is JobStatus.CANCELLED else "pause")
                job = self.jobs.get(job_id)
                if job.status is JobStatus.RUNNING:
                    return job  # a worker that ends the attempt later sees the request
                if job.status is to and not job.pause_reason:
                    self._forget(job)
                    return job
            if to is JobStatus.PAUSED and job.status is JobStatus.PAUSED and not job.pause_reason:
                raise Conflict(f"job {job.id} is paused already", code="job_paused")
            try:
                moved = self.jobs.move(job, to)
            except Conflict as conflict:
                if conflict.code == "job_moved" and race < _MAX_RACES - 1:
                    continue  # a worker or another request changed it
                if has_requested and job.status.is_final:
                    self._forget(job)
                raise
            self._withdraw(job)
            if has_requested:
                self._forget(job)
            return moved
        raise AssertionError("unreachable")

    @property
    def _keys(self) -> IdempotencyKeys:
        return IdempotencyKeys(self.blobs, "job")

    def _check_queue(self) -> None:
        try:
            self.redis.ping()
        except (RedisError, OSError) as error:
            raise Unavailable(
                "the job queue does not respond; nothing was changed; try again in a moment",
                code="queue_unavailable",
            ) from error

    def _check_corpora(self, request: JobRequest) -> None:
        """Raise NotFound if a corpus was deleted since the request was checked."""
        for corpus_id in request.corpora:
            # The job is recorded: after another error, clients would repeat the request.
            with contextlib.suppress(Unavailable):
                Corpora(self.blobs).get(corpus_id)

    def _send(self, job: Job) -> None:
        # On failure the reconciler sends it later, because its record says queued.
        with (
            contextlib.suppress(RedisError, OSError),
            tracing.span("send job", kind="PRODUCER", attributes={"nextchar.job.id": job.id}),
        ):
            self.queue.enqueue(job)

    def _forget(self, job: Job) -> None:
        """Remove the request to a worker that had already ended its attempt: it is fulfilled here."""
        with contextlib.suppress(RedisError, OSError):
            self.live.acknowledge_stop(job.id)

    def _withdraw(self, job: Job) -> None:
        # On failure a worker gets the message and ignores it, because the record has changed.
        with contextlib.suppress(RedisError, OSError):
            self.queue.remove(job)


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
        if not is_base(model):
            access.check_model(model)
    text = body.model_dump_json().encode()
    key = access.scoped_idempotency_key(idempotency_key)
    if key and (job := control.submitted(key, text)):
        return job
    watermark.check()
    corpus = access.get_corpus(body.corpus)
    with _as("start_from"):
        start = _start(access, body.start_from) if body.start_from is not None else None
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


def _start(access: Access, reference: str) -> Card:
    """Return the card of the model to start from. Raises NotFound."""
    if is_base(reference):
        return find_base(reference).card
    try:
        return access.models.get(reference).card
    except NotFound as error:
        error.message += f"; start from one of your models, or from {' or '.join(base_references())}"
        raise


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
        error.message, error.param = f"{field}: {error.message}", field
        raise
