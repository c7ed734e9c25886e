"""A job under way as one sequence of updates: its events as they come, its record a few times a second.

Events tell what happened, each once; only the record tells the place in the queue and the time left.
Knows no terminal.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nextchar.answers import Event, Job
from nextchar.client import Client
from nextchar.errors import ClientError

TICK_S = 0.125
_RECORD_EVERY_TICKS = 4
_PAUSES_S = (0.25, 0.5, 1, 2, 4, 8, 16, 32)  # before the last record is asked for again


@dataclass(frozen=True)
class Update:
    """An event, or the job's newest record, or neither: only time has passed."""

    event: Event | None = None
    job: Job | None = None


def watch(client: Client, job_id: str, *, after: int = 0) -> Iterator[Update]:
    """Yield updates until the job is final or paused; the last one is the record that says so.

    All events come before that last record. Raises ServerUnreachable when the server stays away for
    longer than the client's patience, ServerError when the job is not known.
    """
    job = client.job(job_id)
    yield Update(job=job)
    events: queue.SimpleQueue[Event | ClientError | None] = queue.SimpleQueue()
    threading.Thread(target=_collect, args=(client, job_id, after, events), daemon=True).start()
    ticks = 0
    while True:
        try:
            event = events.get(timeout=TICK_S)
        except queue.Empty:
            ticks += 1
            yield Update()
            if ticks % _RECORD_EVERY_TICKS == 0:
                try:
                    job = client.job(job_id)
                except ClientError as error:
                    if not error.is_retryable:
                        raise
                    continue  # the collecting thread decides when it is time to give up
                yield Update(job=job)
                if job["status"] == "paused":
                    return
            continue
        if isinstance(event, ClientError):
            raise event
        if event is None:  # the job is final and all its events have come
            yield Update(job=_last_record(client, job_id))
            return
        yield Update(event=event)


def _last_record(client: Client, job_id: str) -> Job:
    for pause_s in _PAUSES_S:
        try:
            return client.job(job_id)
        except ClientError as error:
            if not error.is_retryable:
                raise
            time.sleep(pause_s)
    return client.job(job_id)


def _collect(
    client: Client, job_id: str, after: int, events: "queue.SimpleQueue[Event | ClientError | None]"
) -> None:
    try:
        for event in client.follow(job_id, after=after):
            events.put(event)
    except ClientError as error:
        events.put(error)
    else:
        events.put(None)
