"""The events of the job that this process trains, in storage, in Redis and in a TensorBoard log."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from store.jobs import Job
from store.live import EventLog, Live
from worker.event_files import FILE_NAME, LiveLog
from worker.settings import WorkerSettings

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")


class JobEvents:
    """The numbered events of a job, those of earlier attempts included.

    `add` sends them to Redis as far as it works; `write` writes all of them to the storage.
    """

    def __init__(self, job: Job, live: Live, event_log: EventLog, settings: WorkerSettings) -> None:
        self.all: list[dict[str, Any]] = []
        self._job_id, self._is_first_attempt = job.id, job.attempt <= 1
        self._live, self._event_log = live, event_log
        self._unsent: list[dict[str, Any]] = []
        self._live_log = _open_live_log(job, settings)

    def load(self) -> None:
        """Read the events of earlier attempts. Raises as Blobs does."""
        self.all = self._event_log.read(self._job_id)

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Add an event."""
        last = self.all[-1]["id"] if self.all else 0
        if not self._is_first_attempt:  # an earlier attempt may have sent events that are not in storage
            last = max(last, try_redis(lambda: self._live.last_event(self._job_id)) or 0)
        event = {"id": last + 1, "at": round(time.time(), 3), "type": kind, "data": data}
        self.all.append(event)
        self._unsent.append(event)
        self._live_log.add(event)
        try_redis(self._send)

    def add_message(self, sentence: str) -> None:
        """Add a message."""
        self.add("message", {"text": sentence})

    def write(self) -> None:
        """Write all events to the storage. Raises as Blobs does."""
        self._event_log.write(self._job_id, self.all)

    def close(self) -> None:
        """Close the TensorBoard log."""
        self._live_log.close()

    def _send(self) -> None:
        self._live.add_events(self._job_id, self._unsent)
        self._unsent = []


def _open_live_log(job: Job, settings: WorkerSettings) -> LiveLog:
    folder = settings.tensorboard_dir
    path = folder / job.request.name / job.id / f"{FILE_NAME}.{job.attempt:03d}" if folder else None
    return LiveLog(path, at=time.time(), from_step=job.resumed_at_step if job.attempt > 1 else None)


def try_redis(call: Callable[[], T]) -> T | None:
    """Return the result of `call`, or None if Redis does not work: training does not depend on it."""
    try:
        return call()
    except (RedisError, OSError) as error:
        log.debug("Redis does not work: %s", error)
        return None
