"""`train(job_id)`: the only function the queue calls. Runs in a process of its own, forked by RQ.

The queue carries an id and may bring it twice, or late. The task re-reads the record, takes the job by
moving it to running, and leaves quietly when another process has it. All that it knows is in storage,
so that it can be killed at any moment and run again.
"""

import ctypes
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from models.compile_cache import machine_folder
from models.errors import Conflict, DomainError
from store.blobs import Blobs, open_blobs
from store.corpora import Corpora
from store.jobs import Job, JobError, Jobs, JobStatus
from store.live import EventLog, Live
from store.models import Models
from store.queue import TrainingQueue
from worker.checkpoints import Checkpoint, Checkpoints
from worker.event_files import FILE_NAME, LiveLog
from worker.main import STOP_SIGNAL
from worker.settings import WorkerSettings

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

_RENEW_S = 2.0


def train(job_id: str) -> None:
    """Run one job to its end, or to the point where it is given back. Returns nothing to the queue."""
    _die_with_parent()
    settings = WorkerSettings.load()
    redis_url = settings.redis_url
    live = Live(Redis.from_url(redis_url, decode_responses=True))
    blobs = open_blobs(settings.blobs_url)
    jobs = Jobs(blobs)
    token = secrets.token_hex(8)
    if not live.hold(job_id, token):
        log.info("%s is held by another worker", job_id)
        return
    try:
        job = jobs.get(job_id)
        if job.status is not JobStatus.QUEUED:
            log.info("%s is %s; nothing to do", job_id, job.status)
            return
        checkpoints = Checkpoints(blobs, job_id)
        job = jobs.move(job, JobStatus.RUNNING, **_attempt(job, checkpoints.newest_step()))
    except DomainError as error:
        log.info("%s is not taken: %s", job_id, error)
        live.release(job_id, token)
        return
    attempt = Attempt(settings, live, blobs, jobs, checkpoints, token, job)
    with attempt.heartbeat():
        try:
            attempt.run()
        finally:
            live.release(job_id, token)
    if attempt.given_back:
        try:
            TrainingQueue(Redis.from_url(redis_url)).send(attempt.job, at_front=True)
        except RedisError as error:  # the record says queued: the reconciler sends it
            log.warning("%s is given back, but Redis is away: %s", job_id, error)


def _attempt(job: Job, newest_step: int | None) -> dict[str, int]:
    """Return the fields that count this attempt, and those since the checkpoint last advanced."""
    step = newest_step or 0
    fruitless = job.fruitless_attempts + 1 if job.attempt and step <= job.resumed_at_step else 0
    return {"attempt": job.attempt + 1, "resumed_at_step": step, "fruitless_attempts": fruitless}


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
        self._log = EventLog(self.blobs)
        self._events = self._log.read(self.job.id)
        self._unsent: list[dict[str, Any]] = []
        self._live_log = self._open_live_log()

    def run(self) -> None:
        """Train, and write down how it ended."""
        signal.signal(STOP_SIGNAL, lambda *_: self._shutdown.set())
        try:
            self._train()
        except Conflict as error:  # the record was moved under us: whoever did it is responsible now
            log.warning("%s: %s", self.job.id, error)
        except DomainError as error:
            self._fail(error.code, error.message)
        except MemoryError:
            self._fail("out_of_memory", "training ran out of memory; take fewer units, layers or rows")
        except Exception as error:
            log.exception("%s failed", self.job.id)
            self._fail(
                "internal_error", f"training broke: {type(error).__name__}; the worker's log says more"
            )
        finally:
            self._live_log.close()

    def heartbeat(self) -> "Heartbeat":
        """Return a context in which the lease is renewed and requests are noticed."""
        return Heartbeat(self._beat)

    def _train(self) -> None:
        from worker.pipeline import train_model  # imports TensorFlow

        outcome = train_model(
            self.job,
            corpora=Corpora(self.blobs),
            models=Models(self.blobs),
            scratch=self.settings.data_dir / "scratch",
            cores=self.settings.cores,
            precision=self.settings.precision,
            measurements=machine_folder(self.settings.data_dir),
            resume=self._resume_point(),
            hooks_stop=self._stop_reason,
            on_event=self._event,
            on_progress=self._set_progress,
            on_checkpoint=self._save,
            checkpoint_every_s=self.settings.checkpoint_seconds,
            events=self._events,
        )
        if outcome.stopped == "shutdown":
            if not self._lost.is_set():
                self._finish(JobStatus.QUEUED)
                self.given_back = True
        elif outcome.stopped == "pause":
            self._finish(JobStatus.PAUSED)
        elif outcome.stopped == "cancel":
            self._finish(JobStatus.CANCELLED)
        else:
            assert outcome.card is not None
            card = Models(self.blobs).publish(outcome.card, outcome.files)
            status = JobStatus.CANCELLED if outcome.stopped else JobStatus.SUCCEEDED
            self._finish(status, model=card.reference)

    def _resume_point(self) -> Checkpoint | None:
        checkpoint, problems = self.checkpoints.load()
        for sentence in problems:
            self._event("message", {"text": sentence})
        if checkpoint:
            self._event("message", {"text": f"going on from the checkpoint of step {checkpoint.step}"})
        return checkpoint

    def _stop_reason(self) -> str | None:
        if self._shutdown.is_set() or self._lost.is_set():
            return "shutdown"
        return self._asked

    def _finish(self, status: JobStatus, **changes: Any) -> None:
        self._flush_log()
        self.job = self.jobs.move(self.job, status, progress=self._progress, **changes)
        if status.is_final:
            self.checkpoints.delete()
        if status is not JobStatus.QUEUED:
            self._redis(lambda: self.live.obeyed(self.job.id))

    def _fail(self, code: str, message: str) -> None:
        try:
            self._finish(JobStatus.FAILED, error=JobError(code=code, message=message))
        except DomainError as error:  # the reconciler finds the job later
            log.warning("%s failed (%s), and its record cannot say so: %s", self.job.id, message, error)

    def _save(self, checkpoint: Checkpoint) -> None:
        try:
            self.checkpoints.save(checkpoint)
            self._flush_log()
        except DomainError as error:  # a full disk must not end hours of training
            log.warning("%s: no checkpoint at step %d: %s", self.job.id, checkpoint.step, error)

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
        self._progress = progress
        self._redis(lambda: self.live.set_progress(self.job.id, progress))

    def _beat(self) -> None:
        if self._redis(lambda: self.live.hold(self.job.id, self.token)) is False:
            self._lost.set()
        asked = self._redis(lambda: self.live.asked(self.job.id) or "")
        if asked is not None:
            self._asked = asked or None

    def _redis(self, call: Callable[[], T]) -> T | None:
        """Return the call's result, or None when Redis is away: training does not depend on it."""
        try:
            return call()
        except (RedisError, OSError) as error:
            log.debug("Redis is away: %s", error)
            return None


class Heartbeat:
    """Calls `beat` every two seconds in a thread, from entering the context until leaving it."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._done.wait(_RENEW_S):
            self._beat()


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that no orphan trains on."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() == 1:  # it was dead before we asked
            os._exit(1)
