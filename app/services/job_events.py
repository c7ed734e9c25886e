"""A job's events, from the log in storage and from Redis, as one sequence."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import anyio
from redis.exceptions import RedisError

from store.jobs import Job, Jobs
from store.live import EventLog, Live

POLL_S = 0.25
_RECORD_POLL_S = 1.0  # reading the record takes a listing of the storage

JsonEvent = dict[str, Any]


def events_so_far(event_log: EventLog, live: Live, job_id: str, *, after: int) -> list[JsonEvent]:
    """Return the events with numbers above `after`, in order. Without Redis, those in the log."""
    events = {event["id"]: event for event in event_log.read(job_id)}
    with contextlib.suppress(RedisError, OSError):
        events |= {event["id"]: event for event in live.events(job_id, after=after)}
    return [events[number] for number in sorted(events) if number > after]


async def follow(
    jobs: Jobs, event_log: EventLog, live: Live, job_id: str, *, after: int, is_stopping: Callable[[], bool]
) -> AsyncGenerator[JsonEvent | Job, None]:
    """Yield the events with numbers above `after` as they happen, then the job once it is final.

    Ends without the job when `is_stopping()` is true; the client reconnects to another process.
    """
    in_thread = anyio.to_thread.run_sync
    new = await in_thread(partial(events_so_far, event_log, live, job_id, after=after))
    read_at = 0.0
    job: Job | None = None
    while not is_stopping():
        for event in new:
            after = max(after, event["id"])
            yield event
        if job and job.status.is_final:
            yield job
            return
        if time.monotonic() - read_at >= _RECORD_POLL_S:
            job, read_at = await in_thread(jobs.get, job_id), time.monotonic()
        if job and job.status.is_final:  # the last events were written before it became final
            new = await in_thread(partial(events_so_far, event_log, live, job_id, after=after))
            continue
        await anyio.sleep(POLL_S)
        new = []
        with contextlib.suppress(RedisError, OSError):  # the log is read at the end
            new = await in_thread(partial(live.events, job_id, after=after))
