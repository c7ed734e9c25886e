"""`train(job_id)`: the only function that the queue calls. RQ runs it in a forked process.

A message has only the job's id, and may be delivered twice or late. The task reads the record, takes the job
by moving it to running, and returns if another process has it. All its state is in storage, so it can be
killed at any time and run again.
"""

import logging

from redis import Redis
from redis.exceptions import RedisError

from nextchar.models.errors import DomainError
from nextchar.store import tracing
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.logs import set_job
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue, child_process, connect, leased
from nextchar.worker.attempt import Attempt
from nextchar.worker.checkpoints import Checkpoints
from nextchar.worker.settings import WorkerSettings

log = logging.getLogger("nextchar.worker")


def train(job_id: str) -> None:
    """Train one job until it ends or is given back to the queue."""
    with child_process(job_id):
        _train(job_id, WorkerSettings.load())


def _train(job_id: str, settings: WorkerSettings) -> None:
    live = Live(connect(settings.redis_url, decode_responses=True))
    blobs = open_blobs(settings.blobs_url)
    with leased(live, job_id) as token:
        attempt = _acquire_job(job_id, settings, live, blobs, token) if token else None
        if attempt is None:
            return
        log.info("attempt %d at %s begins", attempt.job.attempt, job_id)
        with attempt.heartbeat():
            attempt.run()
        log.info("%s is %s", job_id, attempt.job.status)
    if attempt.is_given_back:
        try:
            TrainingQueue(Redis.from_url(settings.redis_url)).enqueue(attempt.job, at_front=True)
        except RedisError as error:  # the record says queued: the reconciler sends it
            log.warning("%s is queued, but Redis is unavailable: %s", job_id, error)


def _acquire_job(
    job_id: str, settings: WorkerSettings, live: Live, blobs: Blobs, token: str
) -> Attempt | None:
    """Move a queued job to running and return an attempt at it; None if that is not possible."""
    jobs = Jobs(blobs)
    checkpoints = Checkpoints(blobs, job_id, scratch=settings.data_dir / "scratch")
    try:
        job = jobs.get(job_id)
        if job.status is not JobStatus.QUEUED:
            log.info("%s is %s: nothing to do", job_id, job.status)
            return None
        set_job(job_id, request_id=job.request_id, traceparent=job.traceparent)
        about = {"nextchar.job.id": job_id}
        with tracing.span(
            "wait in queue", parent=job.traceparent, started_at=job.updated_at, attributes=about
        ):
            pass
        step = jobs.checkpoint_step(job_id) or 0
        job = jobs.move(job, JobStatus.RUNNING, attempt=job.attempt + 1, resumed_at_step=step)
    except DomainError as error:  # after a storage error, the reconciler sends the job again
        log.warning("%s was not started: %s", job_id, error)
        return None
    return Attempt(settings, live, blobs, jobs, checkpoints, token, job)
