"""Training jobs: the record that is the truth about them, and the transitions it may make.

    jobs/<id>/<sequence>.json   the whole record after its <sequence>-th transition

A transition creates the next file. Storage creates a file once, so of two writers racing from the same
state one wins and the other gets a Conflict; nothing else guards a job, and no lost Redis can lose one.
"""

import contextlib
import time
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.config import Mix, NetworkConfig, TrainingConfig
from models.errors import Conflict, NotFound, Unavailable
from models.text.vocabulary import Alphabet
from store.blobs import Blobs
from store.ids import is_id, new_id


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job is over. Of these states a failed job alone can be resumed."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # Back to queued: its worker was lost or is shutting down; it goes on from its checkpoint.
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    # Paused again: a job that waits for storage stays paused because its owner wants it to.
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),  # resumed from the checkpoint that is kept for a while
    JobStatus.CANCELLED: frozenset(),
}


class JobRequest(BaseModel):
    """What is to be trained, every default filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    name: str
    network: NetworkConfig
    training: TrainingConfig
    alphabet: Alphabet = "characters"
    coverage: float = 1.0
    start_from: str | None = None  # name@version
    masks: tuple[str, ...] = ()
    masked_by_default: str | None = None  # why, if nobody chose the masks
    mix: Mix | None = None  # its corpus is an id, its teacher name@version

    @property
    def corpora(self) -> tuple[str, ...]:
        """The ids of all texts that it reads."""
        return (self.corpus, self.mix.corpus) if self.mix else (self.corpus,)


STORAGE_CODES = frozenset({"storage_full", "storage_unavailable"})
"""Codes of a pause that ends by itself when the storage works again."""


class JobError(BaseModel):
    """Why a job failed or was paused: a stable code, and a sentence its owner can act on."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class Job(BaseModel):
    """One job as of its `sequence`-th transition. Times are Unix seconds, UTC."""

    model_config = ConfigDict(frozen=True)

    id: str
    sequence: int = 0
    status: JobStatus = JobStatus.QUEUED
    created_at: float
    updated_at: float
    attempt: int = 0  # how often a worker has begun it
    resumed_at_step: int = 0  # the checkpoint that the last attempt began from
    fruitless_attempts: int = 0  # in a row, whose worker was lost before the next checkpoint
    stepless_attempts: int = 0  # in a row, whose worker was lost before its first step
    storage_pauses: int = 0  # in a row, for storage, without a new checkpoint between them
    request: JobRequest
    progress: dict[str, Any] | None = None  # the last known, when the record was written
    model: str | None = None  # name@version, once succeeded, or cancelled with the best so far kept
    error: JobError | None = None  # why it failed
    pause_reason: JobError | None = None  # why it is paused; None: its owner paused it
    needed_bytes: int = 0  # what it could not write, roughly, when it was paused for storage

    @property
    def waits_for_storage(self) -> bool:
        """Whether it is paused until the storage works again."""
        is_paused = self.status is JobStatus.PAUSED
        return is_paused and self.pause_reason is not None and self.pause_reason.code in STORAGE_CODES


class Jobs:
    """The jobs in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: dict[str, tuple[str, Job]] = {}  # by id: path and contents of the newest record read

    @property
    def blobs(self) -> Blobs:
        """The storage."""
        return self._blobs

    def create(self, request: JobRequest, *, job_id: str | None = None) -> Job:
        """Record a new job as queued. Enqueueing it is the caller's."""
        now = time.time()
        job = Job(id=job_id or new_id("job"), created_at=now, updated_at=now, request=request)
        if not self._blobs.create(_path(job), _dump(job)):
            raise Conflict(f"job {job.id} exists already", code="job_exists")
        return job

    def get(self, job_id: str) -> Job:
        """Return the newest record of a job.

        An empty one is passed over for the one before.

        Raises:
            NotFound: there is no such job (code `job_not_found`).
            Unavailable: the record is damaged (code `job_damaged`).
        """
        known = self._known.get(job_id)
        if known and not TRANSITIONS[known[1].status]:
            return known[1]
        paths = self._paths(job_id)
        if not paths:
            raise no_such_job(job_id)
        return self._read(job_id, paths[-1])

    def all(self) -> list[Job]:
        """Return all jobs, newest first; those whose record is damaged are left out.

        Raises:
            Unavailable: the storage does not work; a list that lacks jobs would be taken for the whole.
        """
        newest = {path.split("/")[1]: path for path in self._blobs.paths("jobs")}
        for job_id in list(self._known):
            if job_id not in newest:  # deleted, perhaps by another process
                self._known.pop(job_id, None)
        jobs = []
        for job_id in sorted(newest, reverse=True):
            try:
                jobs.append(self._read(job_id, newest[job_id]))
            except NotFound:  # deleted meanwhile
                continue
            except Unavailable as error:
                # One damaged record must not hide the rest; `get` says what is wrong with it.
                if error.code != "job_damaged":
                    raise
        return jobs

    def unfinished(self) -> list[Job]:
        """Return the jobs that are not in a final state, oldest first."""
        return [job for job in reversed(self.all()) if not job.status.is_final]

    def move(self, job: Job, to: JobStatus, **changes: Any) -> Job:
        """Write the transition of `job`, as the caller knows it, to state `to`; return the new record.

        An error or a reason to be paused is of one state: it goes with the transition unless `changes`
        give one.

        Raises:
            Conflict: no such transition (the code is the present state, as in `job_succeeded`), or
                another writer has moved the job since the caller read it (`job_moved`).
        """
        if to not in TRANSITIONS[job.status]:
            raise Conflict(f"job {job.id} is {job.status} and cannot become {to}", code=f"job_{job.status}")
        update = {"sequence": job.sequence + 1, "status": to, "updated_at": time.time()}
        moved = job.model_copy(update=update | {"error": None, "pause_reason": None} | changes)
        # Looked up as well, for the sweep deletes old transitions, and their numbers must stay taken.
        is_newest = self._paths(job.id)[-1:] == [_path(job)]
        if not is_newest or not self._blobs.create(_path(moved), _dump(moved)):
            raise Conflict(
                f"job {job.id} has been changed by another request meanwhile; read it again", code="job_moved"
            )
        return moved

    def checkpoint_step(self, job_id: str) -> int | None:
        """Return the step of the job's newest checkpoint, if it has one."""
        paths = self._blobs.paths(f"checkpoints/{job_id}")
        return int(paths[-1].rsplit("/", 1)[-1].split(".")[0]) if paths else None

    def delete(self, job: Job) -> None:
        """Delete a finished job's records. Cut short, it leaves the newest, which says that it is over.

        A record that is newer than `job`, as of one that has just been resumed, stays.
        """
        self._blobs.delete(*(path for path in self._paths(job.id) if path < _path(job)))
        self._blobs.delete(_path(job))
        self._known.pop(job.id, None)

    def delete_old_transitions(self, job: Job) -> None:
        """Delete the records of `job` before the newest. Its number stays taken."""
        paths = self._paths(job.id)
        with contextlib.suppress(FileNotFoundError):  # another process has just deleted the job
            if len(paths) > 1 and self._blobs.read(paths[-1]):  # an empty one stands for the one before
                self._blobs.delete(*paths[:-1])

    def _paths(self, job_id: str) -> list[str]:
        return self._blobs.paths(f"jobs/{job_id}") if is_id("job", job_id) else []

    def _read(self, job_id: str, path: str) -> Job:
        known = self._known.get(job_id)
        if known and known[0] == path:  # a record never changes, so it is read once
            return known[1]
        try:
            job = self._parse(path)
        except FileNotFoundError:  # deleted since it was listed
            raise no_such_job(job_id) from None
        self._known[job_id] = (path, job)
        return job

    def _parse(self, path: str) -> Job:
        data = self._blobs.read(path)
        if not data and (before := self._before(path)):
            return before
        try:
            return Job.model_validate_json(data)
        except ValueError:
            raise Unavailable(
                f"{path} is damaged or from another version of nextchar; restore it, or delete its folder",
                code="job_damaged",
            ) from None

    def _before(self, path: str) -> Job | None:
        """Return the record before an empty one, which a loss of power left before records were synced.

        Its sequence is the empty one's, whose number stays taken.
        """
        folder, _, name = path.rpartition("/")
        number = name.removesuffix(".json")
        with contextlib.suppress(ValueError, FileNotFoundError):
            job = self._parse(f"{folder}/{int(number) - 1:06d}.json")
            return job.model_copy(update={"sequence": int(number)})
        return None


def no_such_job(job_id: str) -> NotFound:
    """Return the error for a job that is not there."""
    return NotFound(f"there is no job {job_id!r}", code="job_not_found", param="job")


def _path(job: Job) -> str:
    return f"jobs/{job.id}/{job.sequence:06d}.json"


def _dump(job: Job) -> bytes:
    return job.model_dump_json().encode()
