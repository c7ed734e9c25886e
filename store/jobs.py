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
from models.vocabulary import Alphabet
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
        """Whether nothing more can happen to a job in this state."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # Back to queued: its worker was lost or is shutting down; it goes on from its checkpoint.
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
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


class JobError(BaseModel):
    """Why a job failed: a stable code, and a sentence its owner can act on."""

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
    fruitless_attempts: int = 0  # in a row, begun from a checkpoint no further than the one before
    request: JobRequest
    progress: dict[str, Any] | None = None  # the last known, when the record was written
    model: str | None = None  # name@version, once succeeded, or cancelled with the best so far kept
    error: JobError | None = None


class Jobs:
    """The jobs in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._final: dict[str, Job] = {}  # final records never change, so they are read once

    def create(self, request: JobRequest, *, job_id: str | None = None) -> Job:
        """Record a new job as queued. Enqueueing it is the caller's."""
        now = time.time()
        job = Job(id=job_id or new_id("job"), created_at=now, updated_at=now, request=request)
        if not self._blobs.create(_path(job), _dump(job)):
            raise Conflict(f"job {job.id} exists already", code="job_exists")
        return job

    def get(self, job_id: str) -> Job:
        """Return the newest record of a job.

        Raises:
            NotFound: there is no such job (code `job_not_found`).
            Unavailable: the record is damaged (code `job_damaged`).
        """
        if job_id in self._final:
            return self._final[job_id]
        paths = self._blobs.paths(f"jobs/{job_id}") if is_id("job", job_id) else []
        if not paths:
            raise NotFound(f"there is no job {job_id!r}", code="job_not_found", param="job")
        return self._read(paths[-1])

    def all(self) -> list[Job]:
        """Return all jobs, newest first; those whose record is damaged are left out."""
        newest = {path.split("/")[1]: path for path in self._blobs.paths("jobs")}
        jobs = []
        for job_id in sorted(newest, reverse=True):
            # One damaged record must not hide the rest; `get` says what is wrong with it.
            with contextlib.suppress(Unavailable):
                jobs.append(self._final.get(job_id) or self._read(newest[job_id]))
        return jobs

    def unfinished(self) -> list[Job]:
        """Return the jobs that are not in a final state, oldest first."""
        return [job for job in reversed(self.all()) if not job.status.is_final]

    def move(self, job: Job, to: JobStatus, **changes: Any) -> Job:
        """Write the transition of `job`, as the caller knows it, to state `to`; return the new record.

        Raises:
            Conflict: no such transition (the code is the present state, as in `job_succeeded`), or
                another writer has moved the job since the caller read it (`job_moved`).
        """
        if to not in TRANSITIONS[job.status]:
            raise Conflict(f"job {job.id} is {job.status} and cannot become {to}", code=f"job_{job.status}")
        moved = job.model_copy(
            update={"sequence": job.sequence + 1, "status": to, "updated_at": time.time(), **changes}
        )
        if not self._blobs.create(_path(moved), _dump(moved)):
            raise Conflict(
                f"job {job.id} has been changed by another request meanwhile; read it again", code="job_moved"
            )
        return moved

    def _read(self, path: str) -> Job:
        data = self._blobs.read(path)
        try:
            job = Job.model_validate_json(data)
        except ValueError:
            raise Unavailable(
                f"{path} is damaged or from another version of nextchar; restore it, or delete its folder",
                code="job_damaged",
            ) from None
        if job.status.is_final:
            self._final[job.id] = job
        return job


def _path(job: Job) -> str:
    return f"jobs/{job.id}/{job.sequence:06d}.json"


def _dump(job: Job) -> bytes:
    return job.model_dump_json().encode()
