"""One attempt of a worker's child process at one job."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nextchar.models.errors import Conflict, DomainError
from nextchar.models.kernels.compile_cache import machine_folder
from nextchar.models.machine import is_out_of_memory, peak_memory_bytes
from nextchar.models.saved_model import Card
from nextchar.store import tracing
from nextchar.store.background import BackgroundLoop
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import EarlyModel, Job, JobError, JobRequest, Jobs, JobStatus
from nextchar.store.live import AttemptOutcome, EventLog, Live
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.queue import RENEW_S, STOP_SIGNAL, try_redis
from nextchar.worker.checkpoints import MAX_SAVING_FRACTION, Checkpoint, Checkpoints
from nextchar.worker.hooks import Hooks, ScratchFull, StopReason, storage_problem
from nextchar.worker.job_events import JobEvents
from nextchar.worker.settings import WorkerSettings

if TYPE_CHECKING:  # heavy
    from opentelemetry.trace import Span

    from nextchar.worker.pipeline import Outcome

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

_QUICK_RETRIES_S = (0.2, 1.0, 2.0)  # after storage errors, before the job is paused
_FIRST_RETRY_S, _MAX_RETRY_S = 0.2, 30.0  # of a write that must succeed
_MAX_SHUTDOWN_RETRY_S = 1.0  # a worker that shuts down gives up instead of waiting longer


class _NotRecorded(Exception):
    """The process must end before the storage accepts the record of the attempt's end."""


@dataclass
class Attempt:
    """One process's attempt at one job."""

    settings: WorkerSettings
    live: Live
    blobs: Blobs
    jobs: Jobs
    checkpoints: Checkpoints
    token: str
    job: Job
    is_given_back: bool = False

    def __post_init__(self) -> None:
        self._began_s = time.monotonic()
        self._shutdown = threading.Event()
        self._lost = threading.Event()  # another process has the lease or has moved the record
        self._stop_request: str | None = None
        self._progress: dict[str, Any] | None = None
        self._unsaved: Checkpoint | None = None  # the newest checkpoint, if it could not be saved
        self._save_again_at_s = self._began_s  # later, if saving has failed
        self._has_saved = False  # a checkpoint later than the one that this attempt started from
        self._needed_bytes = 0
        self._is_waiting = False  # for the storage; a message was sent
        self._checkpoint_at: float | None = None  # when a checkpoint was last saved, in Unix seconds
        self._events = JobEvents(self.job, self.live, EventLog(self.blobs))

    def run(self) -> None:
        """Train, and record how that ended, as soon as the storage works."""
        signal.signal(STOP_SIGNAL, lambda *_: self._shutdown.set())
        self._events.start()
        try:
            with self._span() as span:
                self._train_and_record_errors()
                if span:
                    span.set_attribute("nextchar.job.status", self.job.status.value)
                    if self.job.error:
                        tracing.mark_failed(span, self.job.error.code)
        except Conflict as error:  # another process moved the record and is responsible now
            log.warning("%s: %s", self.job.id, error)
        except _NotRecorded:  # the reconciler restarts the job from its last checkpoint
            log.warning("%s: the worker stops before the storage accepts its record", self.job.id)
        finally:
            self._events.close()

    def _span(self) -> contextlib.AbstractContextManager["Span | None"]:
        return tracing.span(
            "run job",
            parent=self.job.traceparent,
            kind="CONSUMER",
            attributes={
                "nextchar.job.id": self.job.id,
                "nextchar.job.attempt": self.job.attempt,
                "nextchar.model": self.job.request.name,
            },
        )

    def _train_and_record_errors(self) -> None:
        try:
            self._train()
        except (Conflict, _NotRecorded):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                log.warning("%s: %s", self.job.id, error)
                self._fail("out_of_memory", "training ran out of memory; use fewer units, layers or rows")
            elif problem := storage_problem(error):
                self._pause_for_storage(problem)
            elif isinstance(error, DomainError):
                self._fail(error.code, error.message)
            else:
                log.exception("%s failed", self.job.id)
                self._fail("internal_error", f"training failed: {type(error).__name__}; see the worker's log")

    def heartbeat(self) -> BackgroundLoop:
        """Return a context manager that renews the lease and reads stop requests."""
        return BackgroundLoop("heartbeat", self._renew_lease, interval_s=RENEW_S)

    def _train(self) -> None:
        self._retry(self._events.load)
        self._begin_phase("")  # an earlier attempt may have died in one
        resume = self._resume_point()
        # Retry only before the first step: later, pausing loses less time than starting again.
        outcome = self._retry(lambda: self._outcome(resume), unless=lambda: self._progress is not None)
        if outcome.stopped == "shutdown":
            if not self._lost.is_set():
                self._save_unsaved()
                self._finish(JobStatus.QUEUED)
                self.is_given_back = True
        elif outcome.stopped == "pause":
            self._save_unsaved()
            self._finish(JobStatus.PAUSED)
        elif outcome.stopped == "cancel" or self._newest_request() == "cancel":  # during the evaluation
            self._finish(JobStatus.CANCELLED)
        else:
            assert outcome.card is not None
            self._needed_bytes = sum(map(len, outcome.files.values()))
            with tracing.span("publish"):
                card = self._retry(lambda: self._publish(outcome))
            status = JobStatus.CANCELLED if outcome.stopped else JobStatus.SUCCEEDED
            self._finish(status, model=card.reference)

    def _outcome(self, resume: Checkpoint | None) -> "Outcome":
        from nextchar.worker.pipeline import train_model  # takes half a second

        return train_model(
            self.job,
            corpora=Corpora(self.blobs),
            models=Models(self.blobs, cache=ModelFileCache.of(self.settings)),
            scratch=self.settings.data_dir / "scratch",
            cores=self.settings.cores,
            precision=self.settings.precision,
            measurements=machine_folder(self.settings.data_dir),
            corpus_cache_bytes=self.settings.corpus_cache_bytes,
            resume=resume,
            hooks=Hooks(
                progress=self._set_progress,
                event=self._events.add,
                phase=self._begin_phase,
                request=self._set_request,
                early=self._publish_early if self.job.request.ready_early and not self.job.early else None,
                checkpoint=self._save,
                stop=self._stop_reason,
                checkpoint_every_s=self.settings.checkpoint_seconds,
            ),
            events=self._events.all,
        )

    def _begin_phase(self, phase: str) -> bool:
        """Publish which part of the evaluation begins, "" for one that is not optional.

        Returns:
            Whether to compute it: not, after a message, if one signal has killed two attempts in it.
        """
        try_redis(lambda: self.live.set_phase(self.job.id, phase))
        if self._progress is not None:
            self._set_progress({**self._progress, "phase": phase or "evaluation"})
        kills = try_redis(lambda: self.live.kills(self.job.id)) if phase else None
        signals = [kill["signal"] for kill in kills or () if kill.get("phase") == phase]
        killed_by = next((number for number in signals if signals.count(number) > 1), None)
        if killed_by is None:
            return True
        self._events.add_message(
            f"the model is published without this part: {phase}; computing it killed the worker's process"
            f" {signals.count(killed_by)} times (signal {killed_by}); see the worker's log"
        )
        return False

    def _set_request(self, request: JobRequest) -> None:
        """Record what preset `auto` has chosen, before the first checkpoint: later attempts keep it."""
        self.job = self.jobs.move(self.job, JobStatus.RUNNING, request=request)

    def _publish_early(self, card: Card, files: Mapping[str, bytes]) -> None:
        """Let the job's early model complete. If the storage fails there is none: training is what counts."""
        try:
            Models(self.blobs).early.write(self.job, card, files)
            early = EarlyModel(attempt=self.job.attempt, since=time.time())
            self.job = self.jobs.move(self.job, JobStatus.RUNNING, early=early)
        except Exception as error:
            problem = storage_problem(error)
            if problem is None:
                raise
            self._events.add_message(f"no early model: {problem.message}; training continues")
            return
        self._events.add_message(
            f"an early model is ready: until training ends, {card.reference} completes and suggests by the"
            " contexts of the text alone"
        )

    def _publish(self, outcome: "Outcome") -> Card:
        assert outcome.card is not None
        return Models(self.blobs).publish(
            outcome.card, outcome.files, attempt=self.job.attempt, is_still_ours=self._is_still_ours
        )

    def _is_still_ours(self) -> bool:
        """Return whether this process owns the job by its record, and by its lease if Redis answers."""
        if try_redis(lambda: self.live.acquire_lease(self.job.id, self.token)) is False:
            self._lost.set()
        return not self._lost.is_set() and self._has_newest_record()

    def _has_newest_record(self) -> bool:
        return self.jobs.get(self.job.id).sequence == self.job.sequence

    def _resume_point(self) -> Checkpoint | None:
        checkpoint, problems = self._retry(self.checkpoints.load)
        for sentence in problems:
            self._events.add_message(sentence)
        if checkpoint:
            self._events.add_message(f"continuing from the checkpoint of step {checkpoint.step}")
        return checkpoint

    def _stop_reason(self) -> StopReason | None:
        if self._shutdown.is_set() or self._lost.is_set():
            return "shutdown"
        return cast(StopReason | None, self._stop_request)

    def _newest_request(self) -> str | None:
        self._renew_lease()
        return self._stop_request

    def _pause_for_storage(self, problem: DomainError) -> None:
        """Pause the job with its newest checkpoint saved; the reconciler queues it again."""
        self._events.add_message(f"{problem.message}; the job continues when the storage works again")
        self._save_unsaved()
        pauses = 1 if self._has_saved else self.job.storage_pauses + 1
        scratch_bytes = problem.needed_bytes if isinstance(problem, ScratchFull) else 0
        self._finish(
            JobStatus.PAUSED,
            pause_reason=JobError(code=problem.code, message=problem.message),
            storage_pauses=pauses,
            needed_bytes=max(self._needed_bytes, 2 * self.checkpoints.newest_bytes, scratch_bytes),
        )

    def _fail(self, code: str, message: str) -> None:
        self._finish(JobStatus.FAILED, error=JobError(code=code, message=message))

    def _finish(self, status: JobStatus, **changes: Any) -> None:
        """Record how the attempt ended, then delete what is no longer needed."""
        self.job = self._persist(lambda: self._write_record(status, changes))
        if self.job.status is JobStatus.PAUSED:
            self._apply_last_stop_request()
        self._count()
        if self._is_waiting:
            self._events.set_progress(self._progress or {})
        if self.job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED):
            with contextlib.suppress(DomainError):  # the retention sweep deletes what is left
                self.checkpoints.delete()
        if self.job.status.is_final:
            with contextlib.suppress(DomainError):
                Models(self.blobs).early.delete(self.job)
        # The best model of a job that waits for storage is still to be published.
        is_open = self.job.waits_for_storage and self._stop_request == "cancel_keep_best"
        if self.job.status is JobStatus.PAUSED and self._stop_request and not is_open:
            applied = self._stop_request  # a newer request is for the next worker
            try_redis(lambda: self.live.acknowledge_stop(self.job.id, applied))
        elif self.job.status.is_final:
            try_redis(lambda: self.live.acknowledge_stop(self.job.id))

    def _count(self) -> None:
        """Count this attempt in the metrics, by the status that it has left the job in."""
        reason = self.job.error or self.job.pause_reason
        outcome = cast(AttemptOutcome, self.job.status.value)
        seconds = time.monotonic() - self._began_s
        try_redis(
            lambda: self.live.count_attempt(outcome, code=reason.code if reason else "", seconds=seconds)
        )

    def _apply_last_stop_request(self) -> None:
        """Cancel or queue a paused job if that was requested while its record said running."""
        self._stop_request = try_redis(lambda: self.live.pending_stop(self.job.id)) or self._stop_request
        if self._stop_request == "cancel":
            to = JobStatus.CANCELLED
        elif self._stop_request == "cancel_keep_best" and not self.job.waits_for_storage:
            to = JobStatus.QUEUED  # for a worker to publish the model
        else:
            return
        self.job = self._persist(lambda: self.jobs.move(self.job, to, progress=self._progress))
        self.is_given_back = to is JobStatus.QUEUED

    def _write_record(self, status: JobStatus, changes: dict[str, Any]) -> Job:
        # Requests may have come while it waited for the storage.
        if status is JobStatus.PAUSED and self._stop_request == "cancel":
            status, changes = JobStatus.CANCELLED, {}
        elif status is JobStatus.PAUSED and self._stop_request == "pause":
            changes = {}
        self._events.write()
        try:
            # An attempt that ends while it reads the text has none of its own.
            progress = self._progress or self.job.progress
            if progress:
                progress = {**progress, "phase": None}
            return self.jobs.move(self.job, status, progress=progress, **changes)
        except Conflict:
            newest = self.jobs.get(self.job.id)  # ours, if the storage failed after it wrote
            is_next = (newest.sequence, newest.attempt) == (self.job.sequence + 1, self.job.attempt)
            if is_next and newest.status is status and self._is_waiting:
                return newest
            raise

    def _save_unsaved(self) -> None:
        """Save the checkpoint that could not be saved, unless the job is to be cancelled."""
        if (checkpoint := self._unsaved) is None:
            return
        self._persist(lambda: None if self._stop_request == "cancel" else self.checkpoints.save(checkpoint))
        self._unsaved, self._has_saved = None, True

    def _persist(self, write: Callable[[], T]) -> T:
        """Return `write()`, repeated while the storage does not work.

        Raises:
            _NotRecorded: the worker must stop.
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
            self._events.add_message(f"waiting for storage: {problem.message}")
        progress = {**(self._progress or {}), "waiting_for_storage": problem.message}
        self._events.set_progress(progress)
        request, deadline = self._stop_request, time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0 and self._stop_request == request:
            if self._lost.is_set():
                raise Conflict(f"another worker has {self.job.id}", code="job_moved")
            if self._shutdown.is_set() and wait_s > _MAX_SHUTDOWN_RETRY_S:
                raise _NotRecorded
            time.sleep(min(left_s, 0.1))

    def _retry(self, call: Callable[[], T], *, unless: Callable[[], bool] = lambda: False) -> T:
        """Return `call()`, repeated a few times after storage errors, unless `unless()` is true."""
        for wait_s in _QUICK_RETRIES_S:
            try:
                return call()
            except Exception as error:
                if storage_problem(error) is None or isinstance(error, ScratchFull) or unless():
                    raise
                log.info("%s: retrying in %g s: %s", self.job.id, wait_s, error)
            self._shutdown.wait(wait_s)
        return call()

    def _save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint. If the storage fails, training continues: stopping would lose more.

        A storage that does not respond can block training for a minute: the next attempt then comes so late
        that failed ones take a tenth of the time at most.

        A process that was suspended, and whose job another process has taken since, stops here.
        """
        began_s = time.monotonic()
        if began_s < self._save_again_at_s:
            self._unsaved = checkpoint
            return
        try:
            if not self._has_newest_record():
                self._lost.set()
                return
            # In this order: a process killed between them repeats events, instead of losing them.
            self._events.write()
            self.checkpoints.save(checkpoint)
        except Exception as error:
            problem = storage_problem(error)
            if problem is None:
                raise
            log.warning("%s: no checkpoint at step %d: %s", self.job.id, checkpoint.step, problem)
            if self._unsaved is None:
                text = f"no checkpoint at step {checkpoint.step}: {problem.message}; training continues"
                self._events.add_message(text)
            self._unsaved = checkpoint
            failed_s = time.monotonic()
            self._save_again_at_s = failed_s + (failed_s - began_s) / MAX_SAVING_FRACTION
            return
        if self._unsaved is not None:
            self._events.add_message(f"checkpoints are saved again, since step {checkpoint.step}")
        self._unsaved, self._checkpoint_at = None, time.time()
        self._has_saved |= checkpoint.step > self.job.resumed_at_step

    def _set_progress(self, progress: dict[str, Any]) -> None:
        # By the attempt the reconciler knows whether the lost one made progress.
        self._progress = progress = {
            **progress,
            "attempt": self.job.attempt,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if self._checkpoint_at is not None:
            progress["checkpoint_at"] = round(self._checkpoint_at, 3)
        self._events.set_progress(progress)

    def _renew_lease(self) -> None:
        if try_redis(lambda: self.live.acquire_lease(self.job.id, self.token)) is False:
            self._lost.set()
        request = try_redis(lambda: self.live.pending_stop(self.job.id) or "")
        if request is not None:
            self._stop_request = request or None


def _retry_waits_s() -> Iterator[float]:
    wait_s = _FIRST_RETRY_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, _MAX_RETRY_S)
