"""Makes what should be running run: jobs whose message or worker was lost go back to the queue.

Safe to run in any number of processes at once: every change is a transition that one of them wins.
"""

import contextlib
import logging
import time

from models.errors import Conflict
from store.jobs import Job, JobError, Jobs, JobStatus
from store.live import Live
from store.queue import TrainingQueue

log = logging.getLogger("nextchar.reconcile")

MAXIMUM_FRUITLESS_ATTEMPTS = 3


class Reconciler:
    """Looks at the unfinished jobs; call `run` every few seconds.

    A job is acted on only when it has looked lost for `patience_s` seconds, so that one on its way from
    the queue to a worker is left alone.
    """

    def __init__(self, jobs: Jobs, live: Live, queue: TrainingQueue, *, patience_s: float = 4.0) -> None:
        self._jobs, self._live, self._queue = jobs, live, queue
        self._patience_s = patience_s
        self._suspects: dict[tuple[str, int], float] = {}  # job id and sequence: lost since

    def run(self) -> None:
        """Look once. An error with one job is raised after all others have been looked at.

        Raises:
            redis.exceptions.RedisError, DomainError, OSError: Redis or the storage does not work.
        """
        waiting = set(self._queue.waiting())
        lost = {
            (job.id, job.sequence): job
            for job in self._jobs.unfinished()
            if job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            and job.id not in waiting
            and not self._live.is_held(job.id)
        }
        now = time.monotonic()
        self._suspects = {key: self._suspects.get(key, now) for key in lost}
        failed: Exception | None = None
        for key, since in self._suspects.items():
            if now - since >= self._patience_s:
                try:
                    with contextlib.suppress(Conflict):  # another process has just done it
                        self._put_right(lost[key])
                except Exception as error:  # noqa: BLE001 -- raised below, after the jobs that follow
                    failed = failed or error
        if failed:
            raise failed

    def _put_right(self, job: Job) -> None:
        asked = self._live.asked(job.id)
        if asked and asked != "cancel_keep_best":  # that needs a worker, which is asked as this one was
            to = JobStatus.CANCELLED if asked == "cancel" else JobStatus.PAUSED
            self._jobs.move(job, to, progress=self._live.progress(job.id))
            self._live.obeyed(job.id)
            return
        if job.status is JobStatus.QUEUED:
            log.warning("%s had lost its place in the queue", job.id)
            self._queue.send(job)
            return
        if job.fruitless_attempts >= MAXIMUM_FRUITLESS_ATTEMPTS:
            message = (
                f"the worker died {job.fruitless_attempts + 1} times without getting further; most often the"
                " reason is memory: take fewer units, layers or rows"
            )
            self._jobs.move(job, JobStatus.FAILED, error=JobError(code="worker_lost", message=message))
            return
        log.warning("%s has lost its worker; it goes on from its last checkpoint", job.id)
        self._queue.send(self._jobs.move(job, JobStatus.QUEUED), at_front=True)
