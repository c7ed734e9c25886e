"""What a client can do to jobs: submit once, cancel, pause, resume. Knows no HTTP.

A waiting job is moved here and now. A running one is asked, and its trainer obeys at the next step.
The record in storage decides: whoever writes the next transition first has won.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import RedisError

from models.errors import Conflict, NotFound, Unavailable
from store.blobs import Blobs
from store.ids import new_id
from store.jobs import Job, JobRequest, Jobs, JobStatus
from store.live import Live
from store.queue import TrainingQueue

_RACES = 5  # how often a job may be moved under our hands before we say so


@dataclass(frozen=True)
class JobControl:
    """The parts that changing jobs needs."""

    blobs: Blobs
    jobs: Jobs
    live: Live
    queue: TrainingQueue
    redis: Redis

    def submitted(self, key: str, body: bytes) -> Job | None:
        """Return the job that an earlier request with this Idempotency-Key made, or None.

        Raises:
            Conflict: the earlier request had another body (code `idempotency_key_reused`).
        """
        try:
            kept = json.loads(self.blobs.read(_key_path(key)))
        except FileNotFoundError:
            return None
        _check_same_body(kept, body)
        try:
            return self.jobs.get(kept["job"])
        except NotFound:  # that request died between its two writes: this one takes its place
            return None

    def submit(self, request: JobRequest, *, key: str | None, body: bytes) -> Job:
        """Record a job and queue it; with a key, at most once however often it is asked for.

        Raises:
            Unavailable: the queue does not answer (code `queue_unavailable`); nothing was written.
            Conflict: another request has used the key with another body meanwhile.
        """
        self._check_queue()
        try:
            job = self.jobs.create(request, job_id=self._id_for(key, body))
        except Conflict:
            earlier = self.submitted(key, body) if key else None
            if earlier is None:
                raise
            return earlier
        self._send(job)
        return job

    def cancel(self, job_id: str, *, keep_best: bool = False) -> Job:
        """Cancel a waiting or paused job, ask a running one. Raises NotFound, Conflict, Unavailable.

        With `keep_best`, a worker makes a model of a job that has been begun, and then cancels it: so a
        paused one is queued once more.
        """
        return self._cancel_keeping_best(job_id) if keep_best else self._stop(job_id, JobStatus.CANCELLED)

    def pause(self, job_id: str) -> Job:
        """Pause a waiting job, ask a running one. Raises NotFound, Conflict, Unavailable.

        One that is paused for storage is then paused by its owner, and does not go on by itself.
        """
        return self._stop(job_id, JobStatus.PAUSED)

    def resume(self, job_id: str) -> Job:
        """Queue a paused or failed job again; it goes on from its checkpoint, if that is kept.

        Raises as `cancel`.
        """
        with contextlib.suppress(RedisError, OSError):
            if self.live.pending_stop(job_id) == "pause":  # which has been done, and Redis could not forget
                self.live.acknowledge_stop(job_id)
        return self._queue_again(job_id)

    def _queue_again(self, job_id: str) -> Job:
        self._check_queue()
        job = self.jobs.get(job_id)
        if job.status not in (JobStatus.PAUSED, JobStatus.FAILED):
            raise Conflict(f"job {job.id} is {job.status}, not paused or failed", code=f"job_{job.status}")
        moved = self.jobs.move(
            job, JobStatus.QUEUED, attempts_without_progress=0, stepless_attempts=0, storage_pauses=0
        )
        self._send(moved)
        return moved

    def _cancel_keeping_best(self, job_id: str) -> Job:
        self._check_queue()
        job = self.jobs.get(job_id)
        if job.attempt == 0 or job.status.is_final:  # nothing learned yet, or too late
            return self._stop(job_id, JobStatus.CANCELLED)
        self.live.request_stop(job.id, "cancel_keep_best")
        job = self.jobs.get(job_id)  # its worker may have left it meanwhile
        return self._queue_again(job_id) if job.status is JobStatus.PAUSED else job

    def _stop(self, job_id: str, to: JobStatus) -> Job:
        for race in range(_RACES):
            job = self.jobs.get(job_id)
            if has_asked := job.status is JobStatus.RUNNING:
                self.live.request_stop(job.id, "cancel" if to is JobStatus.CANCELLED else "pause")
                job = self.jobs.get(job_id)
                if job.status is JobStatus.RUNNING:
                    return job  # if its worker leaves it from here on, it sees what was asked
                if job.status is to and not job.pause_reason:
                    self._forget(job)
                    return job
            if to is JobStatus.PAUSED and job.status is JobStatus.PAUSED and not job.pause_reason:
                raise Conflict(f"job {job.id} is paused already", code="job_paused")
            try:
                moved = self.jobs.move(job, to)
            except Conflict as conflict:
                if conflict.code != "job_moved" or race == _RACES - 1:
                    raise
                continue  # a worker took it, or somebody else moved it: look again
            self._withdraw(job)
            if has_asked:
                self._forget(job)
            return moved
        raise AssertionError("unreachable")

    def _id_for(self, key: str | None, body: bytes) -> str:
        job_id = new_id("job")
        if key is None:
            return job_id
        kept = {"body": hashlib.sha256(body).hexdigest(), "job": job_id}
        if not self.blobs.create(_key_path(key), json.dumps(kept).encode()):
            kept = json.loads(self.blobs.read(_key_path(key)))
            _check_same_body(kept, body)
        return str(kept["job"])

    def _check_queue(self) -> None:
        try:
            self.redis.ping()
        except (RedisError, OSError) as error:
            raise Unavailable(
                "the job queue does not answer; nothing was done, try again in a moment",
                code="queue_unavailable",
            ) from error

    def _send(self, job: Job) -> None:
        # On failure its record still says queued: the worker's reconciler sends it when the queue is back.
        with contextlib.suppress(RedisError, OSError):
            self.queue.send(job)

    def _forget(self, job: Job) -> None:
        """Forget what was asked of a worker that had left the job before: it has been done here."""
        with contextlib.suppress(RedisError, OSError):
            self.live.acknowledge_stop(job.id)

    def _withdraw(self, job: Job) -> None:
        # On failure a worker gets the message, finds the job moved, and does nothing.
        with contextlib.suppress(RedisError, OSError):
            self.queue.withdraw(job)


def _key_path(key: str) -> str:
    return f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}"


def _check_same_body(kept: dict[str, str], body: bytes) -> None:
    if kept["body"] != hashlib.sha256(body).hexdigest():
        raise Conflict(
            "this Idempotency-Key was used for another job; take a new key for a new job",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
