"""Training jobs: their records, and the allowed transitions.

    jobs/<id>/<sequence>.json   the whole record after its <sequence>-th transition

A transition creates the next file, and the storage creates a file only once: of two concurrent writers one
succeeds and the other gets a Conflict. There is no other lock, and losing Redis loses no job.
"""

import contextlib
import time
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field

from nextchar.models.auto_preset import Candidate
from nextchar.models.config import Mix, NetworkConfig, Preset, PresetOption, SuggestionConfig, TrainingConfig
from nextchar.models.errors import Conflict, NotFound
from nextchar.models.text.kind_detection import Purpose, TextKind
from nextchar.models.text.vocabulary import Alphabet
from nextchar.store.blobs import Blobs
from nextchar.store.history import History, ImmutableRecord, number_of
from nextchar.store.ids import is_id, new_id


class JobStatus(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended. Only a failed job can be resumed."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # To queued: its worker was lost or is shutting down; it continues from its checkpoint.
    # To running: its worker has chosen the preset of `auto`, or written its early model.
    JobStatus.RUNNING: frozenset(JobStatus),
    # To paused: its owner pauses a job that waits for storage.
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),  # resumed from its last checkpoint
    JobStatus.CANCELLED: frozenset(),
}


class JobRequest(ImmutableRecord):
    """What to train, with all defaults filled in.

    A job of preset `auto` has the candidates instead of one network, until its worker has chosen.
    """

    model_config = ConfigDict(extra="forbid")

    corpus: str
    name: str
    network: NetworkConfig  # until the worker has chosen from `candidates`: that of the first
    training: TrainingConfig  # likewise
    preset: PresetOption | None = None  # None: of an older record, or of an architecture without presets
    candidates: tuple[Candidate, ...] = ()  # of preset `auto`, until the worker has chosen
    chosen_preset: Preset | None = None  # by preset `auto`
    alphabet: Alphabet = "characters"
    kind: TextKind | None = None  # None: of an older record or not known, split like `text`
    purpose: Purpose | None = None  # None: of an older record
    coverage: float = 1.0
    start_from: str | None = None  # name@version, of a base model base/name@version
    base: Candidate | None = None  # what a base model is trained with, until its worker has looked for one
    masks: tuple[str, ...] = ()
    masked_by_default: str | None = None  # what they replace, if they are the suggested ones
    mixture: bool = True  # whether the model predicts with a mixture
    ready_early: bool = False  # whether an early model completes while the network is trained
    mix: Mix | None = None  # its corpus is an id, its teacher name@version
    suggestions: SuggestionConfig | None = None  # None: all lines of records are suggested

    def with_choice(self, candidate: Candidate) -> "JobRequest":
        """Return the request with the network and recipe of a candidate, and no further candidates."""
        return self.model_copy(
            update={
                "network": candidate.network,
                "training": candidate.training,
                "candidates": (),
                "chosen_preset": candidate.preset,
            }
        )

    def with_base(self, reference: str | None) -> "JobRequest":
        """Return the request after the worker has looked for a base model to start from."""
        request = self.model_copy(update={"base": None, "start_from": reference})
        return request.with_choice(self.base) if reference and self.base else request

    @property
    def corpora(self) -> tuple[str, ...]:
        """The ids of all corpora that it reads."""
        return (self.corpus, self.mix.corpus) if self.mix else (self.corpus,)


STORAGE_CODES = frozenset({"storage_full", "storage_unavailable"})
"""Codes of a pause that ends automatically when the storage works again."""


class JobError(ImmutableRecord):
    """Why a job failed or was paused."""

    code: str
    """Stable and machine-readable, such as `diverged`, `out_of_memory` or `storage_full`."""
    message: str = Field(description="The reason, and what to do about it.")


class EarlyModel(ImmutableRecord):
    """The model with which an unfinished job completes; `store/early_models.py` has its files."""

    attempt: int  # that wrote it
    since: float  # Unix seconds, UTC


class Job(ImmutableRecord):
    """One job as of its `sequence`-th transition. Times are Unix seconds, UTC."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    sequence: int = 0
    status: JobStatus = JobStatus.QUEUED
    created_at: float
    updated_at: float
    attempt: int = 0  # how often a worker has started it
    resumed_at_step: int = 0  # the checkpoint that the last attempt started from
    # Consecutive attempts whose worker was lost before the next checkpoint, and before its first step.
    attempts_without_progress: int = Field(0, alias="fruitless_attempts")
    stepless_attempts: int = 0
    storage_pauses: int = 0  # consecutive, for storage, without a new checkpoint
    request: JobRequest
    created_by: str | None = None  # the name of the API key; None without keys, or of an older record
    request_id: str | None = None  # of the HTTP call that created it
    traceparent: str | None = None  # that call's trace context, if it is traced
    progress: dict[str, Any] | None = None  # as of this record
    early: EarlyModel | None = None
    model: str | None = None  # name@version, after success or cancel_keep_best
    error: JobError | None = None  # why it failed
    pause_reason: JobError | None = None  # None: its owner paused it
    needed_bytes: int = 0  # estimate of what it could not write when it was paused for storage

    @property
    def waits_for_storage(self) -> bool:
        """Whether it is paused until the storage works again."""
        is_paused = self.status is JobStatus.PAUSED
        return is_paused and self.pause_reason is not None and self.pause_reason.code in STORAGE_CODES


class Jobs:
    """The jobs in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._history = History(blobs, "jobs", Job, digits=6, damaged="job_damaged")

    def create(
        self,
        request: JobRequest,
        *,
        job_id: str | None = None,
        created_by: str | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Job:
        """Record a new job as queued; the caller sends it to the queue."""
        now = time.time()
        job = Job(
            id=job_id or new_id("job"),
            created_at=now,
            updated_at=now,
            request=request,
            created_by=created_by,
            request_id=request_id,
            traceparent=traceparent,
        )
        if not self._history.create(0, job, job.id):
            raise Conflict(f"job {job.id} already exists", code="job_exists")
        return job

    def get(self, job_id: str) -> Job:
        """Return the newest record of a job; if that is empty, the one before.

        Raises:
            NotFound: there is no such job (code `job_not_found`).
            Unavailable: the record is damaged (code `job_damaged`).
        """
        known = self._history.remembered(job_id)
        if known and not TRANSITIONS[known.status]:
            return known
        paths = self._paths(job_id)
        if not paths:
            raise no_such_job(job_id)
        try:
            return self._find(paths[-1]) or self._history.read(paths[-1])
        except FileNotFoundError:  # deleted since it was listed
            raise no_such_job(job_id) from None

    def all(self) -> list[Job]:
        """Return all jobs, newest first, except those with a damaged record.

        Raises:
            Unavailable: the storage does not work; an incomplete list would be misleading.
        """
        found = map(self._find, reversed(self._history.newest_paths()))
        return [job for job in found if job]

    def unfinished(self) -> list[Job]:
        """Return the jobs that are not in a final state, oldest first."""
        return [job for job in reversed(self.all()) if not job.status.is_final]

    def move(self, job: Job, to: JobStatus, **changes: Any) -> Job:
        """Write the transition of `job`, as the caller read it, to state `to`; return the new record.

        The transition clears `error` and `pause_reason` unless `changes` set them. A job that has ended has
        no early model.

        Raises:
            Conflict: there is no such transition (the code is the current state, as in `job_succeeded`), or
                another writer has moved the job since the caller read it (`job_moved`).
        """
        if to not in TRANSITIONS[job.status]:
            raise Conflict(f"job {job.id} is {job.status} and cannot become {to}", code=f"job_{job.status}")
        update = {"sequence": job.sequence + 1, "status": to, "updated_at": time.time()}
        update |= {"early": None if to.is_final else job.early, "error": None, "pause_reason": None}
        moved = job.model_copy(update=update | changes)
        if not self._history.append(moved.sequence, moved, job.id):
            raise Conflict(f"job {job.id} was changed by another request; read it again", code="job_moved")
        return moved

    def checkpoint_step(self, job_id: str) -> int | None:
        """Return the step of the job's newest checkpoint, if it has one."""
        paths = self.blobs.paths(f"checkpoints/{job_id}")
        return int(paths[-1].rsplit("/", 1)[-1].split(".")[0]) if paths else None

    def delete(self, job: Job) -> None:
        """Delete the records of a job that has ended, the newest last.

        A record newer than `job`, for example of a job that has just been resumed, stays.
        """
        self._history.delete(job.sequence, job.id)

    def delete_old_transitions(self, job: Job) -> None:
        """Delete the records of `job` before the newest. Its number stays taken."""
        paths = self._paths(job.id)
        with contextlib.suppress(FileNotFoundError):  # the job was deleted concurrently
            # If it is empty, the one before is needed.
            if len(paths) > 1 and self.blobs.read_record(paths[-1]):
                self.blobs.delete(*paths[:-1])

    def _paths(self, job_id: str) -> list[str]:
        return self._history.paths(job_id) if is_id("job", job_id) else []

    def _find(self, path: str) -> Job | None:
        """Return a record; of an empty one, left by a power loss before records were synced, the one before.

        That one gets the sequence of the empty one, whose number stays taken. None: it is deleted or damaged.
        """
        job, number = self._history.find(path), number_of(path)
        with contextlib.suppress(FileNotFoundError):
            if job is None and number and not self.blobs.read_record(path):
                before = self._find(self._history.path(number - 1, path.split("/")[1]))
                return before and before.model_copy(update={"sequence": number})
        return job


def no_such_job(job_id: str) -> NotFound:
    """Return the error for a job that does not exist."""
    return NotFound(f"there is no job {job_id!r}", code="job_not_found", param="job")
