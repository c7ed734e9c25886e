"""Jobs as the API shows them, with what Redis knows of the moment; and their events, from both."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from redis.exceptions import RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered
from nextchar.app.http.services import Services
from nextchar.app.jobs.schemas import JobBody, JobErrorBody, ProgressBody
from nextchar.store.expiring_cache import ExpiringCache
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.live import EventLog, Live
from nextchar.store.queue import TrainingQueue

_REQUEST_FIELDS = (JobBody.model_fields.keys() & JobRequest.model_fields.keys()) - {"candidates"}

_RECORD_POLL_S = 1.0  # reading the record takes a listing of the storage

JsonEvent = dict[str, Any]


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


def events_so_far(event_log: EventLog, live: Live, job_id: str, *, after: int) -> list[JsonEvent]:
    """Return the events with numbers above `after`, in order. Without Redis, those in the log."""
    events = {event["id"]: event for event in event_log.read(job_id)}
    with contextlib.suppress(RedisError, OSError):
        events |= {event["id"]: event for event in live.events(job_id, after=after)}
    return [events[number] for number in sorted(events) if number > after]


class JobEventSource:
    """The events of one job, then the job once it is final."""

    def __init__(self, jobs: Jobs, event_log: EventLog, live: Live, job_id: str) -> None:
        self._jobs, self._event_log, self._live, self._job_id = jobs, event_log, live, job_id
        self._job: ExpiringCache[Job] = ExpiringCache(_RECORD_POLL_S)

    def last_number(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        events = self._so_far(after=0)
        return events[-1][0] if events else 0

    def read(self, after: int, limit: int) -> list[Numbered]:
        """Return up to `limit` events with numbers above `after`."""
        return self._so_far(after=after)[:limit]

    def poll(self, after: int) -> NewEvents:
        """Return the events with numbers above `after`, and the job if it is final."""
        job = self._job.get(self._job_id, lambda _: self._jobs.get(self._job_id))
        if job.status.is_final:  # the last events were written before it became final
            return NewEvents(self._so_far(after=after), job)
        with contextlib.suppress(RedisError, OSError):  # the log is read at the end
            return NewEvents([(event["id"], event) for event in self._live.events(self._job_id, after=after)])
        return NewEvents()

    def _so_far(self, *, after: int) -> list[Numbered]:
        events = events_so_far(self._event_log, self._live, self._job_id, after=after)
        return [(event["id"], event) for event in events]


class JobFeeds(Feeds):
    """The events of jobs that are followed."""

    @classmethod
    def of(cls, services: Services) -> Self:
        """Return the feeds of an application."""
        open_source = partial(JobEventSource, services.jobs, services.event_log, services.live)
        return cls(open_source, threads=services.feed_threads, is_stopping=services.stopping.is_set)
