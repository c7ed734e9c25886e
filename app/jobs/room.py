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

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from nextchar.app.http.services import Services
from nextchar.app.jobs import routes
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.reconcile import Reconciler
from nextchar.app.jobs.schemas import JobBodies, JobFeeds
from nextchar.app.operations.metrics import STORAGE_READ_S, BoundedRead, Metrics
from nextchar.app.room import Folder, Room
from nextchar.models.errors import DomainError
from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Job, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.queue import TrainingQueue

_JOB = ("job_id", "model")


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
        yield GaugeMetricFamily(
            "nextchar_storage_up", "Whether the storage can be read.", value=jobs is not None
        )
        is_redis_up = False
        with contextlib.suppress(RedisError, OSError):
            families = [*self._of_queue(), *self._of_attempts(), *self._of_running_jobs(jobs or [])]
            is_redis_up = True
            yield from families
        yield GaugeMetricFamily("nextchar_redis_up", "Whether Redis responds.", value=is_redis_up)

    def _of_records(self, jobs: list[Job]) -> Iterator[Metric]:
        by_status = GaugeMetricFamily("nextchar_jobs", "Jobs by status.", labels=["status"])
        tally = Tally(job.status for job in jobs)
        for status in JobStatus:
            by_status.add_metric([status], tally[status])
        yield by_status
        queued_at = [job.updated_at for job in jobs if job.status is JobStatus.QUEUED]
        yield GaugeMetricFamily(
            "nextchar_queue_oldest_seconds",
            "For how long the job that has waited longest for a worker has been queued; 0 if none waits.",
            value=max(0.0, self.clock() - min(queued_at)) if queued_at else 0.0,
        )

    def _of_queue(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "nextchar_queue_depth", "Jobs waiting in the queue.", value=len(self.queue.waiting())
        )
        yield GaugeMetricFamily(
            "nextchar_workers", "Workers that have reported recently.", value=self.queue.live_workers()
        )

    def _of_attempts(self) -> Iterator[Metric]:
        attempts = CounterMetricFamily(
            "nextchar_training_attempts",
            "Attempts of workers at jobs that have ended, by how, in all processes together.",
            labels=["outcome", "code"],
        )
        seconds = CounterMetricFamily(
            "nextchar_training_attempt_seconds",
            "Seconds that these attempts took; 0 for lost ones.",
            labels=["outcome", "code"],
        )
        lost = {("lost", "worker_lost"): (0, 0.0)}  # from the start, so that the first one is an increase
        ended = lost | self.live.attempts()
        for (outcome, code), (count, spent_s) in sorted(ended.items()):
            attempts.add_metric([outcome, code], count)
            seconds.add_metric([outcome, code], spent_s)
        yield from (attempts, seconds)

    def _of_running_jobs(self, jobs: list[Job]) -> Iterator[Metric]:
        def family(name: str, about: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"nextchar_training_{name}", about, labels=[*_JOB, *labels])

        running_s = family("running_seconds", "Seconds since a worker took the running job.")
        speed = family("characters_per_second", "Training speed of a running job.")
        ratio = family("progress_ratio", "Steps done of a running job, from 0 to 1.")
        bits = family("bits_per_character", "Latest loss of a running job: of `train` or `validation`.", "of")
        age = family(
            "checkpoint_age_seconds",
            "Seconds of a running job that would be lost with its worker: since the last checkpoint, or since"
            " the worker took the job.",
        )
        memory = family("peak_memory_bytes", "Peak memory of the process that trains a running job.")
        waits = family("waiting_for_storage", "1 if the worker of a running job waits for the storage.")
        now = self.clock()
        for job in jobs:
            if job.status is not JobStatus.RUNNING:
                continue
            labels = [job.id, job.request.name]
            progress = self.live.progress(job.id) or {}
            if progress.get("attempt") != job.attempt:  # of an earlier attempt
                progress = {}
            running_s.add_metric(labels, max(0.0, now - job.updated_at))
            age.add_metric(labels, max(0.0, now - progress.get("checkpoint_at", job.updated_at)))
            waits.add_metric(labels, "waiting_for_storage" in progress)
            if (value := progress.get("characters_per_second")) is not None:
                speed.add_metric(labels, value)
            if (value := progress.get("peak_memory_bytes")) is not None:
                memory.add_metric(labels, value)
            if progress.get("steps"):
                ratio.add_metric(labels, progress["step"] / progress["steps"])
            for text in ("train", "validation"):
                if (value := progress.get(f"{text}_bits_per_character")) is not None:
                    bits.add_metric([*labels, text], value)
        yield from (running_s, speed, ratio, bits, age, memory, waits)


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
