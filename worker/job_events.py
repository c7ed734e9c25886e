"""The progress of this process's job in Redis; its events there, in storage and in a TensorBoard log.

TensorBoard event files from a job's events.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Job
from nextchar.store.live import EventLog, Live
from nextchar.store.queue import try_redis
from nextchar.worker.settings import WorkerSettings

FILE_NAME = "events.out.tfevents.nextchar"
"""TensorBoard reads any file whose name contains `tfevents`; this one names no host."""

_SCALARS = {
    "train_bits_per_character": "bits_per_character/train",
    "validation_bits_per_character": "bits_per_character/validation",
    "learning_rate": "optimizer/learning_rate",
    "characters_per_second": "speed/characters_per_second",
    "epoch": "progress/epoch",
}


class EventFile:
    """An event file. Write errors reach the caller; TensorBoard's own writers hide them in a thread."""

    def __init__(self, path: Path, *, at: float, from_step: int | None = None) -> None:
        """Create the file and its folders; raises OSError.

        Args:
            path: of the file, which is replaced if it exists.
            at: Unix seconds.
            from_step: the step at which the job resumed; later steps in other files of the folder are void.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        path.parent.mkdir(parents=True, exist_ok=True)
        self._event_class = Event
        self._writer = RecordWriter(str(path))
        self._write(Event(wall_time=at, file_version="brain.Event:2"))
        if from_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=at, step=from_step + 1, session_log=start))

    def add(self, event: Mapping[str, Any]) -> None:
        """Write an event {"at", "type", "data"} if TensorBoard can show it, and flush. Raises OSError."""
        from tensorboardX import summary

        data, at = event["data"], event["at"]
        if event["type"] == "metrics":
            summaries = [
                summary.scalar(tag, data[key]) for key, tag in _SCALARS.items() if data.get(key) is not None
            ]
        elif event["type"] == "sample":
            summaries = [summary.text("sample", _preformatted(data["text"]))]
        else:
            return
        for item in summaries:
            self._write(self._event_class(wall_time=at, step=data["step"], summary=item))
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file. Raises OSError."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


class LiveLog:
    """An event file during training. An error closes it, and training continues.

    >>> LiveLog(None, at=0.0).add({"type": "metrics"})
    """

    def __init__(self, path: Path | None, *, at: float, from_step: int | None = None) -> None:
        """Create the file; with None nothing is written."""
        self._path = path
        self._file: EventFile | None = None
        if path:
            try:
                self._file = EventFile(path, at=at, from_step=from_step)
            except OSError as error:
                self._fail(error)

    def add(self, event: Mapping[str, Any]) -> None:
        """Write the event. After an error nothing more is written."""
        if self._file:
            try:
                self._file.add(event)
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # the error was logged
                file.close()

    def _fail(self, error: OSError) -> None:
        log.warning("no TensorBoard log in %s: %s", self._path, error)
        self.close()


def _preformatted(text: str) -> str:
    """Return Markdown that shows `text` verbatim: an indented block."""
    return "\n".join("    " + line for line in text.encode("utf-8", "replace").decode().split("\n"))


log = logging.getLogger("nextchar.worker")

_RETRY_S = 2.0  # after Redis has failed, unless more is added before


class JobEvents:
    """The numbered events of a job, those of earlier attempts included, and its newest progress.

    A thread sends them to Redis, in order and as far as it works, so that training never waits for Redis;
    `write` writes all events to the storage.
    """

    def __init__(self, job: Job, live: Live, event_log: EventLog, settings: WorkerSettings) -> None:
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
        self._live_log = _open_live_log(job, settings)

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
        self._live_log.add(event)
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
        """Send the rest, and close the TensorBoard log."""
        self._sender.stop()
        self.flush()
        self._live_log.close()

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


def _open_live_log(job: Job, settings: WorkerSettings) -> LiveLog:
    folder = settings.tensorboard_dir
    path = folder / job.request.name / job.id / f"{FILE_NAME}.{job.attempt:03d}" if folder else None
    return LiveLog(path, at=time.time(), from_step=job.resumed_at_step if job.attempt > 1 else None)
