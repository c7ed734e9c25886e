"""Jobs as the API shows them: the record, with what Redis knows of the moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from nextchar.app.jobs.schemas import JobBody, JobErrorBody, ProgressBody
from nextchar.store.jobs import Job, JobRequest, JobStatus
from nextchar.store.live import Live
from nextchar.store.queue import TrainingQueue

_REQUEST_FIELDS = (JobBody.model_fields.keys() & JobRequest.model_fields.keys()) - {"candidates"}


@dataclass(frozen=True)
class JobBodies:
    """Describes jobs. Without Redis, queue positions are null and progress is the record's."""

    live: Live
    queue: TrainingQueue

    def one(self, job: Job) -> JobBody:
        """Return the description of a job."""
        return self.many([job])[0]

    def many(self, jobs: Sequence[Job]) -> list[JobBody]:
        """Return the descriptions of jobs, reading the queue once."""
        waiting = self._waiting() if any(job.status is JobStatus.QUEUED for job in jobs) else []
        return [self._body(job, waiting) for job in jobs]

    def _waiting(self) -> list[str]:
        try:
            return self.queue.waiting()
        except (RedisError, OSError):
            return []

    def _body(self, job: Job, waiting: Sequence[str]) -> JobBody:
        progress, asked = job.progress, None
        is_waiting = job.status is JobStatus.QUEUED and job.id in waiting
        if not job.status.is_final:
            try:
                progress = self.live.progress(job.id) or progress
                asked = self.live.pending_stop(job.id) if job.status is not JobStatus.PAUSED else None
            except (RedisError, OSError):
                pass
        return JobBody(
            id=job.id,
            status=job.status,
            created_at=int(job.created_at),
            updated_at=int(job.updated_at),
            attempt=job.attempt,
            queue_position=waiting.index(job.id) + 1 if is_waiting else None,
            asked=asked,
            model=job.model,
            progress=ProgressBody(**progress) if progress else None,
            error=job.error and JobErrorBody(**job.error.model_dump()),
            pause_reason=job.pause_reason and JobErrorBody(**job.pause_reason.model_dump()),
            candidates=list(dict.fromkeys(one.preset for one in job.request.candidates)),
            **{field: getattr(job.request, field) for field in _REQUEST_FIELDS},
        )
