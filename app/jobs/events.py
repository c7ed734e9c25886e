"""A job's events, from the log in storage and from Redis, as one sequence."""

import contextlib
from functools import partial
from typing import Any, Self

from redis.exceptions import RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered
from nextchar.app.http.services import Services
from nextchar.store.expiring_cache import ExpiringCache
from nextchar.store.jobs import Job, Jobs
from nextchar.store.live import EventLog, Live

_RECORD_POLL_S = 1.0  # reading the record takes a listing of the storage

JsonEvent = dict[str, Any]


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
