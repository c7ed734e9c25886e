"""`train(job_id)`: the only function the queue calls. Runs in a process of its own, forked by RQ.

The queue carries an id and may bring it twice, or late. The task re-reads the record, takes the job by
moving it to running, and leaves quietly when another process has it. All that it knows is in storage,
so that it can be killed at any moment and run again.
"""

import contextlib
import ctypes
import errno
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from models.errors import Conflict, DomainError, StorageFull, Unavailable
from models.kernels.compile_cache import machine_folder
from models.saved_model import Card
from store.background import BackgroundLoop
from store.blobs import Blobs, as_domain_error
from store.corpora import Corpora
from store.jobs import STORAGE_CODES, Job, JobError, Jobs, JobStatus
from store.live import EventLog, Live
from store.logs import set_job
from store.models import Models
from store.open_blobs import open_blobs
from store.queue import TrainingQueue
from worker.checkpoints import Checkpoint, Checkpoints
from worker.event_files import FILE_NAME, LiveLog
from worker.main import PARENT_PID, STOP_SIGNAL
from worker.settings import WorkerSettings

if TYPE_CHECKING:  # it imports TensorFlow
    from worker.pipeline import Outcome

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

_RENEW_S = 2.0
_REDIS_TIMEOUT_S = 2.0  # shorter than the reconciler's patience: a lease is renewed soon after Redis is back
_QUICK_RETRIES_S = (0.2, 1.0, 2.0)  # of what the storage refused, before the job is paused
_FIRST_RETRY_S, _MAX_RETRY_S = 0.2, 30.0  # where nothing can be done but wait
_MAX_SHUTDOWN_RETRY_S = 1.0  # a worker that is to stop waits no longer than this for one more try
_STORAGE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
    }
)


def train(job_id: str) -> None:
    """Run one job to its end, or to the point where it is given back. Returns nothing to the queue."""
    _die_with_parent()
    set_job(job_id)
    settings = WorkerSettings.load()
    live = Live(_connect(settings.redis_url))
    blobs = open_blobs(settings.blobs_url)
    token = secrets.token_hex(8)
    if not live.acquire_lease(job_id, token):
        log.info("%s is held by another worker", job_id)
        return
    try:
        attempt = _take(job_id, settings, live, blobs, token)
        if attempt is None:
            return
        with attempt.heartbeat():
            attempt.run()
    finally:
        with contextlib.suppress(RedisError):  # then it runs out
            live.release_lease(job_id, token)
    if attempt.given_back:
        try:
            TrainingQueue(Redis.from_url(settings.redis_url)).send(attempt.job, at_front=True)
        except RedisError as error:  # the record says queued: the reconciler sends it
            log.warning("%s is given back, but Redis is away: %s", job_id, error)


def _connect(url: str) -> Redis:
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )


def _take(job_id: str, settings: WorkerSettings, live: Live, blobs: Blobs, token: str) -> "Attempt | None":
    """Move a queued job to running and return this attempt at it; None if it is not to be had."""
    jobs, checkpoints = Jobs(blobs), Checkpoints(blobs, job_id)
    try:
        job = jobs.get(job_id)
        if job.status is not JobStatus.QUEUED:
            log.info("%s is %s; nothing to do", job_id, job.status)
            return None
        step = jobs.checkpoint_step(job_id) or 0
        job = jobs.move(job, JobStatus.RUNNING, attempt=job.attempt + 1, resumed_at_step=step)
    except DomainError as error:  # where that is the storage's, the reconciler sends the job again
        log.warning("%s is not taken: %s", job_id, error)
        return None
    return Attempt(settings, live, blobs, jobs, checkpoints, token, job)


def storage_problem(error: Exception) -> DomainError | None:
    """Return what is wrong with the storage or the scratch folder, if that is what `error` says.

    Such errors pass, or somebody makes room: they are no reason to end a job.
    """
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        error = as_domain_error(error)
    is_storage = isinstance(error, StorageFull | Unavailable) and error.code in STORAGE_CODES
    return error if is_storage else None  # type: ignore[return-value]


class _NotRecorded(Exception):
    """The process must end before the storage takes the record of how its attempt ended."""


@dataclass
class Attempt:
    """One process's try at one job."""

    settings: WorkerSettings
    live: Live
    blobs: Blobs
    jobs: Jobs
    checkpoints: Checkpoints
    token: str
    job: Job
    given_back: bool = False

    def __post_init__(self) -> None:
        self._shutdown = threading.Event()
        self._lost = threading.Event()  # another process holds the job: we are the ghost
        self._asked: str | None = None
        self._progress: dict[str, Any] | None = None
        self._unsaved: Checkpoint | None = None  # the newest, if the storage did not take it
        self._has_saved = False  # a checkpoint further on than the one that this attempt began from
        self._needed_bytes = 0
        self._is_waiting = False  # for the storage; those who watch have been told
        self._log = EventLog(self.blobs)
        self._events: list[dict[str, Any]] = []
        self._unsent: list[dict[str, Any]] = []
        self._live_log = self._open_live_log()

    def run(self) -> None:
        """Train, and write down how it ended; where the storage does not take that, wait until it does."""
        signal.signal(STOP_SIGNAL, lambda *_: self._shutdown.set())
        try:
            self._train_or_say_why_not()
        except Conflict as error:  # the record was moved under us: whoever did it is responsible now
            log.warning("%s: %s", self.job.id, error)
        except _NotRecorded:  # the reconciler finds the job, which goes on from its last checkpoint
            log.warning("%s: the worker ends, and the storage does not take its record", self.job.id)
        finally:
            self._live_log.close()

    def _train_or_say_why_not(self) -> None:
        try:
            self._train()
        except (Conflict, _NotRecorded):
            raise
        except MemoryError:
            self._fail("out_of_memory", "training ran out of memory; take fewer units, layers or rows")
        except Exception as error:
            if problem := storage_problem(error):
                self._pause_for_storage(problem)
            elif isinstance(error, DomainError):
                self._fail(error.code, error.message)
            else:
                log.exception("%s failed", self.job.id)
                self._fail(
                    "internal_error", f"training broke: {type(error).__name__}; the worker's log says more"
                )

    def heartbeat(self) -> BackgroundLoop:
        """Return a context in which the lease is renewed and requests are noticed."""
        return BackgroundLoop("heartbeat", self._beat, interval_s=_RENEW_S)

    def _train(self) -> None:
        self._events = self._quickly(lambda: self._log.read(self.job.id))
        resume = self._resume_point()
        # Only while nothing has been trained: later there is more to lose than the reading of a text.
        outcome = self._quickly(lambda: self._outcome(resume), unless=lambda: self._progress is not None)
        if outcome.stopped == "shutdown":
            if not self._lost.is_set():
                self._save_what_is_not()
                self._finish(JobStatus.QUEUED)
                self.given_back = True
        elif outcome.stopped == "pause":
            self._save_what_is_not()
            self._finish(JobStatus.PAUSED)
        elif outcome.stopped == "cancel":
            self._finish(JobStatus.CANCELLED)
        else:
            assert outcome.card is not None
            self._needed_bytes = sum(map(len, outcome.files.values()))
            card = self._quickly(lambda: self._publish(outcome))
            status = JobStatus.CANCELLED if outcome.stopped else JobStatus.SUCCEEDED
            self._finish(status, model=card.reference)

    def _outcome(self, resume: Checkpoint | None) -> "Outcome":
        from worker.pipeline import train_model  # imports TensorFlow

        return train_model(
            self.job,
            corpora=Corpora(self.blobs),
            models=Models(self.blobs),
            scratch=self.settings.data_dir / "scratch",
            cores=self.settings.cores,
            precision=self.settings.precision,
            measurements=machine_folder(self.settings.data_dir),
            resume=resume,
            hooks_stop=self._stop_reason,
            on_event=self._event,
            on_progress=self._set_progress,
            on_checkpoint=self._save,
            checkpoint_every_s=self.settings.checkpoint_seconds,
            events=self._events,
        )

    def _publish(self, outcome: "Outcome") -> Card:
        assert outcome.card is not None
        return Models(self.blobs).publish(
            outcome.card, outcome.files, attempt=self.job.attempt, is_still_ours=self._is_still_ours
        )

    def _is_still_ours(self) -> bool:
        """Return whether the job is this process's by its record, and by its lease where Redis answers."""
        if self._redis(lambda: self.live.acquire_lease(self.job.id, self.token)) is False:
            self._lost.set()
        return not self._lost.is_set() and self._has_newest_record()

    def _has_newest_record(self) -> bool:
        return self.jobs.get(self.job.id).sequence == self.job.sequence

    def _resume_point(self) -> Checkpoint | None:
        checkpoint, problems = self._quickly(self.checkpoints.load)
        for sentence in problems:
            self._event("message", {"text": sentence})
        if checkpoint:
            self._event("message", {"text": f"going on from the checkpoint of step {checkpoint.step}"})
        return checkpoint

    def _stop_reason(self) -> str | None:
        if self._shutdown.is_set() or self._lost.is_set():
            return "shutdown"
        return self._asked

    def _pause_for_storage(self, problem: DomainError) -> None:
        """Leave the job, with all that it has learned in storage, until the reconciler queues it again."""
        self._event(
            "message", {"text": f"{problem.message}; the job goes on by itself when the storage works again"}
        )
        self._save_what_is_not()
        pauses = 1 if self._has_saved else self.job.storage_pauses + 1
        self._finish(
            JobStatus.PAUSED,
            pause_reason=JobError(code=problem.code, message=problem.message),
            storage_pauses=pauses,
            needed_bytes=max(self._needed_bytes, 2 * self.checkpoints.newest_bytes),
        )

    def _fail(self, code: str, message: str) -> None:
        self._finish(JobStatus.FAILED, error=JobError(code=code, message=message))

    def _finish(self, status: JobStatus, **changes: Any) -> None:
        """Write how the attempt ended, then delete what is no longer needed."""
        self.job = self._persist(lambda: self._write_record(status, changes))
        if self.job.status is JobStatus.PAUSED:
            self._obey_what_came_last()
        if self._is_waiting:
            self._redis(lambda: self.live.set_progress(self.job.id, self._progress or {}))
        if self.job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED):
            with contextlib.suppress(DomainError):  # the sweep deletes what is left
                self.checkpoints.delete()
        # A model of the best so far is still to be made of a job that waits for storage.
        is_open = self.job.waits_for_storage and self._asked == "cancel_keep_best"
        if self.job.status is JobStatus.PAUSED and self._asked and not is_open:
            done = self._asked  # what is asked from now on is not this process's
            self._redis(lambda: self.live.acknowledge_stop(self.job.id, done))
        elif self.job.status.is_final:
            self._redis(lambda: self.live.acknowledge_stop(self.job.id))

    def _obey_what_came_last(self) -> None:
        """Cancel a job that is paused, if that was asked while it was running by its record."""
        self._asked = self._redis(lambda: self.live.pending_stop(self.job.id)) or self._asked
        if self._asked == "cancel":
            to = JobStatus.CANCELLED
        elif self._asked == "cancel_keep_best" and not self.job.waits_for_storage:
            to = JobStatus.QUEUED  # for a worker, perhaps this one, to make the model
        else:
            return
        self.job = self._persist(lambda: self.jobs.move(self.job, to, progress=self._progress))
        self.given_back = to is JobStatus.QUEUED

    def _write_record(self, status: JobStatus, changes: dict[str, Any]) -> Job:
        if status is JobStatus.PAUSED and self._asked == "cancel":  # asked while it waited for the storage
            status, changes = JobStatus.CANCELLED, {}
        elif status is JobStatus.PAUSED and self._asked == "pause":
            changes = {}
        self._flush_log()
        try:
            return self.jobs.move(self.job, status, progress=self._progress, **changes)
        except Conflict:
            newest = self.jobs.get(self.job.id)  # ours, if the storage wrote it and then failed to say so
            is_next = (newest.sequence, newest.attempt) == (self.job.sequence + 1, self.job.attempt)
            if is_next and newest.status is status and self._is_waiting:
                return newest
            raise

    def _save_what_is_not(self) -> None:
        """Save the checkpoint that the storage did not take; a cancel makes that unnecessary."""
        if (checkpoint := self._unsaved) is None:
            return
        self._persist(lambda: None if self._asked == "cancel" else self.checkpoints.save(checkpoint))
        self._unsaved, self._has_saved = None, True

    def _persist(self, write: Callable[[], T]) -> T:
        """Return `write()`, which is repeated for as long as the storage does not work.

        Raises:
            _NotRecorded: the worker is to stop.
            Conflict: another process has the job.
        """
        for wait_s in _retry_waits_s():
            try:
                return write()
            except Exception as error:
                problem = storage_problem(error)
                if problem is None:
                    raise
                self._wait_for_storage(problem, wait_s)
        raise AssertionError("unreachable")

    def _wait_for_storage(self, problem: DomainError, wait_s: float) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            log.warning("%s waits for storage: %s", self.job.id, problem.message)
            self._event("message", {"text": f"waiting for storage: {problem.message}"})
        told = {**(self._progress or {}), "waiting_for_storage": problem.message}
        self._redis(lambda: self.live.set_progress(self.job.id, told))
        asked, until = self._asked, time.monotonic() + wait_s
        while (left_s := until - time.monotonic()) > 0 and self._asked == asked:
            if self._lost.is_set():
                raise Conflict(f"another worker has {self.job.id}", code="job_moved")
            if self._shutdown.is_set() and wait_s > _MAX_SHUTDOWN_RETRY_S:
                raise _NotRecorded
            time.sleep(min(left_s, 0.1))

    def _quickly(self, call: Callable[[], T], *, unless: Callable[[], bool] = lambda: False) -> T:
        """Return `call()`, repeated a few times where the storage does not work, but not when `unless()`."""
        for wait_s in _QUICK_RETRIES_S:
            try:
                return call()
            except Exception as error:
                if storage_problem(error) is None or unless():
                    raise
                log.info("%s: tried again in %g s: %s", self.job.id, wait_s, error)
            self._shutdown.wait(wait_s)
        return call()

    def _save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, or go on without: to stop training would lose what it has learned since.

        A process that stood still, and whose job was taken for lost, stops here and keeps nothing.
        """
        try:
            if not self._has_newest_record():
                self._lost.set()
                return
            self.checkpoints.save(checkpoint)
            self._flush_log()
        except Exception as error:
            problem = storage_problem(error)
            if problem is None:
                raise
            log.warning("%s: no checkpoint at step %d: %s", self.job.id, checkpoint.step, problem)
            if self._unsaved is None:
                text = f"no checkpoint at step {checkpoint.step}: {problem.message}; training goes on"
                self._event("message", {"text": text})
            self._unsaved = checkpoint
            return
        if self._unsaved is not None:
            self._event("message", {"text": f"checkpoints are kept again, from step {checkpoint.step} on"})
        self._unsaved = None
        self._has_saved |= checkpoint.step > self.job.resumed_at_step

    def _event(self, kind: str, data: dict[str, Any]) -> None:
        last = self._events[-1]["id"] if self._events else 0
        if self.job.attempt > 1:  # an earlier attempt may have told Redis more than it could keep
            last = max(last, self._redis(lambda: self.live.last_event(self.job.id)) or 0)
        event = {"id": last + 1, "at": round(time.time(), 3), "type": kind, "data": data}
        self._events.append(event)
        self._unsent.append(event)
        self._live_log.add(event)
        self._redis(self._send_events)

    def _open_live_log(self) -> LiveLog:
        folder, job = self.settings.tensorboard_dir, self.job
        path = folder / job.request.name / job.id / f"{FILE_NAME}.{job.attempt:03d}" if folder else None
        return LiveLog(path, at=time.time(), from_step=job.resumed_at_step if job.attempt > 1 else None)

    def _send_events(self) -> None:
        self.live.add_events(self.job.id, self._unsent)
        self._unsent = []

    def _flush_log(self) -> None:
        self._log.write(self.job.id, self._events)

    def _set_progress(self, progress: dict[str, Any]) -> None:
        # The attempt tells the reconciler whether the one that was lost had come further.
        self._progress = progress = {**progress, "attempt": self.job.attempt}
        self._redis(lambda: self.live.set_progress(self.job.id, progress))

    def _beat(self) -> None:
        if self._redis(lambda: self.live.acquire_lease(self.job.id, self.token)) is False:
            self._lost.set()
        asked = self._redis(lambda: self.live.pending_stop(self.job.id) or "")
        if asked is not None:
            self._asked = asked or None

    def _redis(self, call: Callable[[], T]) -> T | None:
        """Return the call's result, or None when Redis is away: training does not depend on it."""
        try:
            return call()
        except (RedisError, OSError) as error:
            log.debug("Redis is away: %s", error)
            return None


def _retry_waits_s() -> Iterator[float]:
    wait_s = _FIRST_RETRY_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, _MAX_RETRY_S)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that no orphan trains on."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if str(os.getppid()) != os.environ.get(PARENT_PID):  # it was dead before we asked
            os._exit(1)
