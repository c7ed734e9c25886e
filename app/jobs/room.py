"""Training jobs: creation, control, events, and the reconciler.

Metrics of jobs, the queue and workers, read from records and Redis.

A worker serves no metrics of its own: its training processes live as long as one job, and on Kubernetes there
is a pod per job, so a scraper would miss most of them. What a worker reports of a running job is in Redis
already, and the API reports for all workers. So every API process reports the same: take the maximum over
processes, not the sum.
"""

import contextlib
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric
from redis.exceptions import RedisError

from nextchar.app.http.services import Services
from nextchar.app.jobs import routes
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.reconcile import Reconciler
from nextchar.app.jobs.schemas import JobBodies, JobFeeds
from nextchar.app.operations.metrics import STORAGE_READ_S, BoundedRead, Metrics, counter, gauge
from nextchar.app.room import Folder, Room
from nextchar.models.errors import DomainError
from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Job, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.queue import TrainingQueue


@dataclass(eq=False)
class TrainingCollector:
    """Yields metrics of jobs and workers; those of a part that does not respond are omitted."""

    jobs: Jobs
    live: Live
    queue: TrainingQueue
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._all_jobs = BoundedRead(self.jobs.all, STORAGE_READ_S)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        jobs = None
        with contextlib.suppress(DomainError, OSError):
            jobs = self._all_jobs()
            yield from self._of_records(jobs)
        yield gauge("nextchar_storage_up", "Whether the storage can be read.", jobs is not None)
        is_redis_up = False
        with contextlib.suppress(RedisError, OSError):
            families = [*self._of_workers(), *self._of_running_jobs(jobs or [])]
            is_redis_up = True
            yield from families
        yield gauge("nextchar_redis_up", "Whether Redis responds.", is_redis_up)

    def _of_records(self, jobs: list[Job]) -> Iterator[Metric]:
        tally = Tally(job.status for job in jobs)
        by_status = {(status.value,): tally[status] for status in JobStatus}
        yield gauge("nextchar_jobs", "Jobs by status.", by_status, "status")
        queued_at = [job.updated_at for job in jobs if job.status is JobStatus.QUEUED]
        yield gauge(
            "nextchar_queue_oldest_seconds",
            "For how long the job that has waited longest for a worker has been queued; 0 if none waits.",
            max(0.0, self.clock() - min(queued_at)) if queued_at else 0.0,
        )

    def _of_workers(self) -> Iterator[Metric]:
        yield gauge("nextchar_queue_depth", "Jobs waiting in the queue.", len(self.queue.waiting()))
        yield gauge("nextchar_workers", "Workers that have reported recently.", self.queue.live_workers())
        lost = {("lost", "worker_lost"): (0, 0.0)}  # from the start, so that the first one is an increase
        ended = lost | self.live.attempts()
        yield counter(
            "nextchar_training_attempts",
            "Attempts of workers at jobs that have ended, by how, in all processes together.",
            {of: count for of, (count, _) in ended.items()},
            "outcome",
            "code",
        )
        yield counter(
            "nextchar_training_attempt_seconds",
            "Seconds that these attempts took; 0 for lost ones.",
            {of: spent_s for of, (_, spent_s) in ended.items()},
            "outcome",
            "code",
        )

    def _of_running_jobs(self, jobs: list[Job]) -> Iterator[Metric]:
        values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _OF_RUNNING_JOBS}
        now = self.clock()
        for job in jobs:
            if job.status is not JobStatus.RUNNING:
                continue
            labels = (job.id, job.request.name)
            progress = self.live.progress(job.id) or {}
            if progress.get("attempt") != job.attempt:  # of an earlier attempt
                progress = {}
            values["running_seconds"][labels] = max(0.0, now - job.updated_at)
            saved_at = progress.get("checkpoint_at", job.updated_at)
            values["checkpoint_age_seconds"][labels] = max(0.0, now - saved_at)
            values["waiting_for_storage"][labels] = "waiting_for_storage" in progress
            for name in ("characters_per_second", "peak_memory_bytes"):
                if (value := progress.get(name)) is not None:
                    values[name][labels] = value
            if progress.get("steps"):
                values["progress_ratio"][labels] = progress["step"] / progress["steps"]
            for text in ("train", "validation"):
                if (value := progress.get(f"{text}_bits_per_character")) is not None:
                    values["bits_per_character"][*labels, text] = value
        for name, about in _OF_RUNNING_JOBS.items():
            of = ("of",) if name == "bits_per_character" else ()
            yield gauge(f"nextchar_training_{name}", about, values[name], "job_id", "model", *of)


_OF_RUNNING_JOBS = {
    "running_seconds": "Seconds since a worker took the running job.",
    "characters_per_second": "Training speed of a running job.",
    "progress_ratio": "Steps done of a running job, from 0 to 1.",
    "bits_per_character": "Latest loss of a running job: of `train` or `validation`.",
    "checkpoint_age_seconds": "Seconds of a running job that would be lost with its worker: since the last"
    " checkpoint, or since the worker took the job.",
    "peak_memory_bytes": "Peak memory of the process that trains a running job.",
    "waiting_for_storage": "1 if the worker of a running job waits for the storage.",
}


RECONCILE_S = 5.0


def _open(services: Services) -> None:
    jobs, live, queue = services.jobs, services.live, services.queue
    services.add(JobControl(services.blobs, jobs, live, queue, services.redis))
    services.add(JobBodies(live, queue))
    services.add(JobFeeds.of(services))
    services[Metrics].register(TrainingCollector(jobs, live, queue))
    services.loops.append(
        BackgroundLoop(
            "reconciler",
            Reconciler(jobs, live, queue).run,
            interval_s=RECONCILE_S,
            effect="jobs whose worker or message was lost are not queued again",
        )
    )


JOBS = Room(
    "jobs",
    _open,
    (routes.router,),
    folders=(
        Folder("idempotency", ["jobs"]),
        Folder("jobs", ["corpora", "model_cards", "events", "checkpoints", "early_models"]),
        Folder("early_models"),
        Folder("events"),
        Folder("checkpoints", is_replaced_often=True),  # by running jobs
    ),
)
