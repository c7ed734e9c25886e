"""A running job as one sequence of updates: its events as they come, its record twice per second.

Events report what happened, each once; only the record has the place in the queue and the time left.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nextchar.client import Client
from nextchar.connection import Outage
from nextchar.errors import NextcharError
from nextchar.types import Event, Job

TICK_S = 0.125
_RECORD_EVERY_TICKS = 4
_PATIENCE_S = 60.0  # for the last record


@dataclass(frozen=True)
class JobUpdate:
    """An event, or the job's newest record, or neither when only time has passed."""

    event: Event | None = None
    job: Job | None = None


def job_updates(client: Client, job_id: str) -> Iterator[JobUpdate]:
    """Yield updates until the job is final or paused; the last one is the record with that status.

    All events come before that last record.

    Raises:
        ServerUnreachable: the service was away for longer than the client retries.
        ServerError: the job is not known.
    """
    job = client.job(job_id)
    yield JobUpdate(job=job)
    events: queue.SimpleQueue[Event | NextcharError | None] = queue.SimpleQueue()
    threading.Thread(target=_collect, args=(client, job_id, events), daemon=True).start()
    ticks = 0
    while True:
        try:
            event = events.get(timeout=TICK_S)
        except queue.Empty:
            ticks += 1
            yield JobUpdate()
            if ticks % _RECORD_EVERY_TICKS == 0:
                try:
                    job = client.job(job_id)
                except NextcharError as error:
                    if not error.is_retryable:
                        raise
                    continue  # the collecting thread decides when to give up
                yield JobUpdate(job=job)
                if job["status"] == "paused":
                    return
            continue
        if isinstance(event, NextcharError):
            raise event
        if event is None:  # the job is final and all its events have come
            yield JobUpdate(job=_last_record(client, job_id))
            return
        yield JobUpdate(event=event)


def _last_record(client: Client, job_id: str) -> Job:
    outage = Outage(_PATIENCE_S)
    while True:
        try:
            return client.job(job_id)
        except NextcharError as error:
            time.sleep(outage.delay_s(error))


def _collect(client: Client, job_id: str, events: "queue.SimpleQueue[Event | NextcharError | None]") -> None:
    try:
        for event in client.follow(job_id):
            events.put(event)
    except NextcharError as error:
        events.put(error)
    else:
        events.put(None)
