"""The progress of this process's job in Redis; its events there and in storage."""

import threading
import time
from typing import Any

from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Job
from nextchar.store.live import EventLog, Live
from nextchar.store.queue import try_redis

_RETRY_S = 2.0  # after Redis has failed, unless more is added before


class JobEvents:
    """The numbered events of a job, those of earlier attempts included, and its newest progress.

    A thread sends them to Redis, in order and as far as it works, so that training never waits for Redis;
    `write` writes all events to the storage.
    """

    def __init__(self, job: Job, live: Live, event_log: EventLog) -> None:
        self.all: list[dict[str, Any]] = []
        self._job_id, self._is_first_attempt = job.id, job.attempt <= 1
        self._live, self._event_log = live, event_log
        self._last_id = 0  # in storage or in Redis
        self._is_loaded = False
        self._progress: dict[str, Any] | None = None
        self._sent_count = 0  # of `all`, what Redis has or need not have
        self._sent_progress: dict[str, Any] | None = None
        self._sending = threading.Lock()
        self._sender = BackgroundLoop("job events", self.flush, interval_s=_RETRY_S)

    def load(self) -> None:
        """Read the events of earlier attempts. Raises as Blobs does."""
        if not self._is_first_attempt:  # an earlier attempt may have sent events that are not in storage
            newest = try_redis(lambda: self._live.last_event(self._job_id)) or 0
            self._last_id = max(self._last_id, newest)
        earlier = self._event_log.read(self._job_id)
        with self._sending:
            self.all = earlier + self.all
            self._sent_count += len(earlier)
        self._last_id = max([self._last_id, *(event["id"] for event in earlier[-1:])])
        self._is_loaded = True

    def start(self) -> None:
        """Start the thread that sends what is added."""
        self._sender.start()

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Add an event."""
        self._last_id += 1
        event = {"id": self._last_id, "at": round(time.time(), 3), "type": kind, "data": data}
        self.all.append(event)
        self._sender.run_soon()

    def add_message(self, sentence: str) -> None:
        """Add a message."""
        self.add("message", {"text": sentence})

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Publish the newest progress, which must not be changed afterwards."""
        self._progress = progress
        self._sender.run_soon()

    def write(self) -> None:
        """Write all events to the storage. Raises as Blobs does."""
        if not self._is_loaded:  # the storage did not work
            self.load()
        self._event_log.write(self._job_id, self.all)

    def flush(self) -> None:
        """Send what Redis does not have yet, if it works."""
        with self._sending:
            try_redis(self._send)

    def close(self) -> None:
        """Send the rest."""
        self._sender.stop()
        self.flush()

    def _send(self) -> None:
        count, progress = len(self.all), self._progress
        if count > self._sent_count:
            # An earlier call may have added some although its response was lost.
            newest = self._live.last_event(self._job_id)
            unsent = [event for event in self.all[self._sent_count : count] if event["id"] > newest]
            self._live.add_events(self._job_id, unsent)
            self._sent_count = count
        if progress is not None and progress is not self._sent_progress:
            self._live.set_progress(self._job_id, progress)
            self._sent_progress = progress
