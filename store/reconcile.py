"""Makes what should be running run.

Jobs whose message or worker was lost go back to the queue, and so do those that waited for storage, once it
works again.

Safe to run in any number of processes at once: every change is a transition that one of them wins.
"""

import contextlib
import logging
import time

from redis.exceptions import RedisError

from models.errors import Conflict, DomainError, StorageFull, Unavailable
from store.jobs import Job, JobError, Jobs, JobStatus
from store.live import EventLog, Live, add_message
from store.queue import TrainingQueue

log = logging.getLogger("nextchar.reconcile")

MAXIMUM_STEPLESS_ATTEMPTS = 5
"""Workers in a row lost before a first step, after which a job is paused."""

MAXIMUM_FRUITLESS_ATTEMPTS = 20
"""Workers in a row lost before the next checkpoint, after which a job is paused."""

_MAX_DOUBLINGS = 6  # of the patience with a job whose workers are lost again and again
_FIRST_STORAGE_WAIT_S, _MAX_STORAGE_WAIT_S = 5.0, 300.0
_PROBE_PATH = "probe"
_PROBE = bytes(1 << 16)
_SPARE_BYTES = 16 << 20  # free beyond what a job could not write: records, events, other jobs' files


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
            redis.exceptions.RedisError, DomainError, OSError: Redis is away or refuses writes, or the storage
                does not work.
        """
        # Nobody can renew a lease while Redis refuses writes, so a look that fails starts the patience anew.
        suspects, self._suspects = self._suspects, {}
        self._live.check_writable()
        waiting = set(self._queue.waiting())
        unfinished = self._jobs.unfinished()
        resumable = self._where_storage_works([job for job in unfinished if job.waits_for_storage])
        lost = {
            (job.id, job.sequence): job
            for job in unfinished
            if job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            and job.id not in waiting
            and not self._live.is_held(job.id)
        }
        now = time.monotonic()
        self._suspects = {key: suspects.get(key, now) for key in lost}
        overdue = [lost[key] for key, since in self._suspects.items() if now - since >= self._patience_s]
        failed: Exception | None = None
        for job in (*resumable, *overdue):
            act = self._resume if job.waits_for_storage else self._put_right
            try:
                with contextlib.suppress(Conflict):  # another process has just done it, or its owner
                    act(job)
            except Exception as error:  # noqa: BLE001 -- raised below, after the jobs that follow
                failed = failed or error
        if failed:
            raise failed

    def _put_right(self, job: Job) -> None:
        asked = self._live.asked(job.id)
        if asked and asked != "cancel_keep_best":  # that needs a worker, which is asked as this one was
            to = JobStatus.CANCELLED if asked == "cancel" else JobStatus.PAUSED
            moved = self._jobs.move(job, to, progress=self._live.progress(job.id))
            self._live.obeyed(job.id, asked)
            if to is JobStatus.PAUSED and self._live.asked(job.id) == "cancel":  # it came meanwhile
                self._put_right(moved)
            return
        if job.status is JobStatus.QUEUED:
            log.warning("%s had lost its place in the queue", job.id, extra={"job_id": job.id})
            self._queue.send(job)
            return
        self._restart(job)

    def _restart(self, job: Job) -> None:
        """Queue a job again whose worker was lost; pause it where that has happened too often in a row."""
        lost_for_s = time.monotonic() - self._suspects[job.id, job.sequence]
        doublings = min(job.stepless_attempts + job.fruitless_attempts // 4, _MAX_DOUBLINGS)
        if lost_for_s < self._patience_s * 2**doublings:
            return
        attempts = self._attempts_after_loss(job)
        if (
            attempts["stepless_attempts"] >= MAXIMUM_STEPLESS_ATTEMPTS
            or attempts["fruitless_attempts"] >= MAXIMUM_FRUITLESS_ATTEMPTS
        ):
            reason = JobError(code="worker_lost", message=self._loss_in_words(job, **attempts))
            progress = self._live.progress(job.id)
            paused = self._jobs.move(job, JobStatus.PAUSED, pause_reason=reason, progress=progress)
            log.warning("%s is paused: %s", job.id, reason.message, extra={"job_id": job.id})
            self._tell(paused, reason.message)
            return
        told = "%s has lost its worker; it goes on from its last checkpoint"
        log.warning(told, job.id, extra={"job_id": job.id})
        self._queue.send(self._jobs.move(job, JobStatus.QUEUED, **attempts), at_front=True)

    def _attempts_after_loss(self, job: Job) -> dict[str, int]:
        """Return the counts of attempts in a row that came no further, this one included."""
        checkpoint = self._jobs.checkpoint_step(job.id) or 0
        if checkpoint > job.resumed_at_step:
            return {"fruitless_attempts": 0, "stepless_attempts": 0}
        progress = self._live.progress(job.id) or {}
        of_this_attempt = progress.get("attempt") == job.attempt
        has_stepped = of_this_attempt and (progress.get("step") or 0) > job.resumed_at_step
        return {
            "fruitless_attempts": job.fruitless_attempts + 1,
            "stepless_attempts": 0 if has_stepped else job.stepless_attempts + 1,
        }

    def _loss_in_words(self, job: Job, *, fruitless_attempts: int, stepless_attempts: int) -> str:
        is_stepless = stepless_attempts >= MAXIMUM_STEPLESS_ATTEMPTS
        count = stepless_attempts if is_stepless else fruitless_attempts
        kills = self._live.kills(job.id)[-count:]
        signals = ", ".join(str(number) for number in sorted({kill["signal"] for kill in kills}))
        if len(kills) == count:
            what = f"the worker's process was killed {count} times (signal {signals})"
        elif kills:
            what = f"the worker was lost {count} times, {len(kills)} of them by a kill (signal {signals})"
        else:
            what = f"the worker was lost {count} times"
        if any(kill["out_of_memory"] for kill in kills):
            advice = (
                "the kernel killed for want of memory meanwhile: give the worker more memory, or train with"
                " fewer units, layers or rows"
            )
        else:
            advice = "see the logs of the worker and its machine for the cause, then resume the job"
        return f"{what} before its {'first step' if is_stepless else 'next checkpoint'}; {advice}"

    def _where_storage_works(self, paused: list[Job]) -> list[Job]:
        """Return the jobs whose time to try again has come, if the storage takes what they have to write."""
        due = [job for job in paused if time.time() >= job.updated_at + storage_wait_s(job.storage_pauses)]
        if not due:
            return []
        try:
            self._jobs.blobs.write(_PROBE_PATH, _PROBE)
            self._jobs.blobs.delete(_PROBE_PATH)
            free_bytes = self._jobs.blobs.free_bytes()
        except (StorageFull, Unavailable) as error:
            log.info("%d jobs go on waiting for storage: %s", len(due), error)
            return []
        return [job for job in due if free_bytes is None or free_bytes >= job.needed_bytes + _SPARE_BYTES]

    def _resume(self, job: Job) -> None:
        queued = self._jobs.move(job, JobStatus.QUEUED)
        log.info("%s goes on: the storage works again", job.id, extra={"job_id": job.id})
        self._tell(queued, "the storage works again; the job is queued to go on")
        self._queue.send(queued, at_front=True)

    def _tell(self, job: Job, text: str) -> None:
        try:
            add_message(self._live, EventLog(self._jobs.blobs), job.id, text)
        except (RedisError, DomainError) as error:  # the record says it too
            log.warning("%s: no event for %r: %s", job.id, text, error)


def storage_wait_s(pauses: int) -> float:
    """Return how long a job waits that has been paused for storage so many times in a row.

    >>> [storage_wait_s(pauses) for pauses in (1, 2, 3, 20)]
    [5.0, 10.0, 20.0, 300.0]
    """
    doublings = min(max(0, pauses - 1), 10)
    return float(min(_FIRST_STORAGE_WAIT_S * 2**doublings, _MAX_STORAGE_WAIT_S))
