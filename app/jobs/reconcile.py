"""The reconciler: queues jobs again whose message or worker was lost, or that waited for storage.

It also arranges the queue so that API keys share the workers.

Safe to run in several processes at once: every change is a job transition, which only one of them can make.
"""

import contextlib
import logging
import time

from redis.exceptions import RedisError

from nextchar.models.errors import Conflict, DomainError, StorageFull, Unavailable
from nextchar.store.jobs import Job, JobError, Jobs, JobStatus
from nextchar.store.live import EventLog, Live, add_message
from nextchar.store.queue import TrainingQueue

log = logging.getLogger("nextchar.reconcile")

MAX_STEPLESS_ATTEMPTS = 5
"""Consecutive workers lost before a first step, after which a job is paused."""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 20
"""Consecutive workers lost before the next checkpoint, after which a job is paused."""

IDLE_S = 30.0
"""While no job waits or runs and none is enqueued, the records are listed this often, since each list is a
request to an object store."""

_MAX_DOUBLINGS = 6  # of the delay before a job is restarted
_FIRST_STORAGE_WAIT_S, _MAX_STORAGE_WAIT_S = 5.0, 300.0
_PROBE_PATH = "probe"
_PROBE = bytes(1 << 16)
_SPARE_BYTES = 16 << 20  # required beyond what a job could not write: records, events, files of other jobs


class Reconciler:
    """Checks the unfinished jobs; call `run` every few seconds.

    A job counts as lost after `patience_s` seconds without message and lease, so that a job on its way from
    the queue to a worker is not restarted.
    """

    def __init__(self, jobs: Jobs, live: Live, queue: TrainingQueue, *, patience_s: float = 4.0) -> None:
        self._jobs, self._live, self._queue = jobs, live, queue
        self._patience_s = patience_s
        self._lost_since_s: dict[tuple[str, int], float] = {}  # by job id and sequence
        self._idle: tuple[object, float] | None = None  # `sent` of the queue and the time of the last list

    def run(self) -> None:
        """Check all jobs once. An error with one job is raised after the other jobs are checked.

        Raises:
            redis.exceptions.RedisError, DomainError, OSError: Redis or the storage does not work.
        """
        # No lease can be renewed while Redis refuses writes, so a failed check restarts the patience.
        lost_since_s, self._lost_since_s = self._lost_since_s, {}
        idle, self._idle = self._idle, None
        self._live.check_writable()
        sent, now = self._queue.sent(), time.monotonic()
        if idle and idle[0] == sent and now - idle[1] < IDLE_S:
            self._idle = idle
            return
        waiting = set(self._queue.waiting())
        unfinished = self._jobs.unfinished()
        self._queue.reorder(
            [job for job in unfinished if job.status is JobStatus.QUEUED],
            [job for job in unfinished if job.status is JobStatus.RUNNING],
        )
        resumable = self._resumable([job for job in unfinished if job.waits_for_storage])
        lost = {
            (job.id, job.sequence): job
            for job in unfinished
            if job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            and job.id not in waiting
            and not self._live.has_lease(job.id)
        }
        if not any(job.waits_for_storage or job.status is not JobStatus.PAUSED for job in unfinished):
            self._idle = sent, now
        now = time.monotonic()
        self._lost_since_s = {key: lost_since_s.get(key, now) for key in lost}
        overdue = [lost[key] for key, since in self._lost_since_s.items() if now - since >= self._patience_s]
        first_error: Exception | None = None
        for job in (*resumable, *overdue):
            act = self._resume if job.waits_for_storage else self._repair
            try:
                with contextlib.suppress(Conflict):  # another process or the owner has just moved it
                    act(job)
            except Exception as error:  # noqa: BLE001 -- raised below, after the other jobs
                first_error = first_error or error
        if first_error:
            raise first_error

    def _repair(self, job: Job) -> None:
        stop = self._live.pending_stop(job.id)
        if stop and stop != "cancel_keep_best":  # which needs a worker: the request stays pending
            to = JobStatus.CANCELLED if stop == "cancel" else JobStatus.PAUSED
            moved = self._jobs.move(job, to, progress=self._live.progress(job.id))
            self._live.acknowledge_stop(job.id, stop)
            if to is JobStatus.PAUSED and self._live.pending_stop(job.id) == "cancel":  # a newer request
                self._repair(moved)
            return
        if job.status is JobStatus.QUEUED:
            log.warning("the queue had lost %s; sent again", job.id, extra={"job_id": job.id})
            self._queue.enqueue(job)
            return
        self._restart(job)

    def _restart(self, job: Job) -> None:
        """Queue a job again whose worker was lost; pause it after too many consecutive losses."""
        lost_for_s = time.monotonic() - self._lost_since_s[job.id, job.sequence]
        doublings = min(job.stepless_attempts + job.attempts_without_progress // 4, _MAX_DOUBLINGS)
        if lost_for_s < self._patience_s * 2**doublings:
            return
        attempts = self._attempts_after_loss(job)
        if (
            attempts["stepless_attempts"] >= MAX_STEPLESS_ATTEMPTS
            or attempts["attempts_without_progress"] >= MAX_ATTEMPTS_WITHOUT_PROGRESS
        ):
            reason = JobError(code="worker_lost", message=self._loss_message(job, **attempts))
            progress = self._live.progress(job.id)
            paused = self._jobs.move(job, JobStatus.PAUSED, pause_reason=reason, progress=progress)
            log.warning("%s is paused: %s", job.id, reason.message, extra={"job_id": job.id})
            self._count_loss()
            self._add_message(paused, reason.message)
            return
        log.warning("the worker of %s was lost; queued again", job.id, extra={"job_id": job.id})
        queued = self._jobs.move(job, JobStatus.QUEUED, **attempts)
        self._count_loss()
        self._queue.enqueue(queued, at_front=True)

    def _count_loss(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # a metric must not keep the job waiting
            self._live.count_attempt("lost", code="worker_lost")

    def _attempts_after_loss(self, job: Job) -> dict[str, int]:
        """Return the counts of consecutive failed attempts, including this one."""
        checkpoint = self._jobs.checkpoint_step(job.id) or 0
        if checkpoint > job.resumed_at_step:
            return {"attempts_without_progress": 0, "stepless_attempts": 0}
        progress = self._live.progress(job.id) or {}
        is_of_this_attempt = progress.get("attempt") == job.attempt
        has_stepped = is_of_this_attempt and (progress.get("step") or 0) > job.resumed_at_step
        return {
            "attempts_without_progress": job.attempts_without_progress + 1,
            "stepless_attempts": 0 if has_stepped else job.stepless_attempts + 1,
        }

    def _loss_message(self, job: Job, *, attempts_without_progress: int, stepless_attempts: int) -> str:
        is_stepless = stepless_attempts >= MAX_STEPLESS_ATTEMPTS
        count = stepless_attempts if is_stepless else attempts_without_progress
        kills = self._live.kills(job.id)[-count:]
        signals = ", ".join(str(number) for number in sorted({kill["signal"] for kill in kills}))
        if len(kills) == count:
            loss = f"the worker's process was killed {count} times (signal {signals})"
        elif kills:
            loss = f"the worker was lost {count} times, {len(kills)} of them by a kill (signal {signals})"
        else:
            loss = f"the worker was lost {count} times"
        if any(kill["out_of_memory"] for kill in kills):
            advice = (
                "the kernel ran out of memory at that time: give the worker more memory, or train with"
                " fewer units, layers or rows"
            )
        else:
            advice = "see the logs of the worker and its machine for the cause, then resume the job"
        return f"{loss} before its {'first step' if is_stepless else 'next checkpoint'}; {advice}"

    def _resumable(self, paused: list[Job]) -> list[Job]:
        """Return the paused jobs that are due for a retry, if the storage has room for what they write."""
        due = [job for job in paused if _has_waited(job)]
        if not due:
            return []
        try:
            self._jobs.blobs.write(_PROBE_PATH, _PROBE)
            self._jobs.blobs.delete(_PROBE_PATH)
            free_bytes = self._jobs.blobs.free_bytes()
        except (StorageFull, Unavailable) as error:
            log.info("%d jobs still wait for storage: %s", len(due), error)
            return []
        return [job for job in due if free_bytes is None or free_bytes >= job.needed_bytes + _SPARE_BYTES]

    def _resume(self, job: Job) -> None:
        queued = self._jobs.move(job, JobStatus.QUEUED)
        log.info("%s is queued again: the storage works", job.id, extra={"job_id": job.id})
        self._add_message(queued, "the storage works again; the job is queued to continue")
        self._queue.enqueue(queued, at_front=True)

    def _add_message(self, job: Job, text: str) -> None:
        try:
            add_message(self._live, EventLog(self._jobs.blobs), job.id, text)
        except (RedisError, DomainError) as error:  # the record has the reason too
            log.warning("%s: the event %r was not written: %s", job.id, text, error)


def _has_waited(job: Job) -> bool:
    waited_s = time.time() - job.updated_at
    # Negative if the clock was set back since, perhaps by hours.
    return waited_s < 0 or waited_s >= storage_wait_s(job.storage_pauses)


def storage_wait_s(pauses: int) -> float:
    """Return how long a job waits after `pauses` consecutive pauses for storage.

    >>> [storage_wait_s(pauses) for pauses in (1, 2, 3, 20)]
    [5.0, 10.0, 20.0, 300.0]
    """
    doublings = min(max(0, pauses - 1), 10)
    return float(min(_FIRST_STORAGE_WAIT_S * 2**doublings, _MAX_STORAGE_WAIT_S))
