"""TensorBoard event files from a job's events. Knows neither queue nor storage."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("nextchar.worker")

FILE_NAME = "events.out.tfevents.nextchar"
"""TensorBoard reads any file whose name contains `tfevents`; ours names no machine."""

_SCALARS = {
    "train_bits_per_character": "bits_per_character/train",
    "validation_bits_per_character": "bits_per_character/validation",
    "learning_rate": "optimizer/learning_rate",
    "characters_per_second": "speed/characters_per_second",
    "epoch": "progress/epoch",
}


class EventFile:
    """One event file, written as events come.

    TensorBoard's own writers write from a thread, which a full disk ends silently and which then blocks;
    here an OSError reaches the caller.
    """

    def __init__(self, path: Path, *, at: float, from_step: int | None = None) -> None:
        """Make the file, and folders for it; raises OSError.

        Args:
            path: where; an older file is replaced.
            at: Unix seconds.
            from_step: what other files of the folder tell of later steps is void: the job went back to it.
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
        """Write what the event {"at", "type", "data"} has for TensorBoard, and flush. Raises OSError."""
        from tensorboardX import summary

        data, at = event["data"], event["at"]
        if event["type"] == "metrics":
            found = [
                summary.scalar(tag, data[key]) for key, tag in _SCALARS.items() if data.get(key) is not None
            ]
        elif event["type"] == "sample":
            found = [summary.text("sample", _preformatted(data["text"]))]
        else:
            return
        for one in found:
            self._write(self._event_class(wall_time=at, step=data["step"], summary=one))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file. Raises OSError."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


class LiveLog:
    """An event file for those who watch; it may break, and the training goes on.

    >>> LiveLog(None, at=0.0).add({"type": "metrics"})
    """

    def __init__(self, path: Path | None, *, at: float, from_step: int | None = None) -> None:
        """Make the file; None keeps no log."""
        self._path = path
        self._file: EventFile | None = None
        if path:
            try:
                self._file = EventFile(path, at=at, from_step=from_step)
            except OSError as error:
                self._give_up(error)

    def add(self, event: Mapping[str, Any]) -> None:
        """Write the event. The first time that fails is the last that is tried."""
        if self._file:
            try:
                self._file.add(event)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Write no more."""
        if self._file:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # what could not be written has been told
                file.close()

    def _give_up(self, error: OSError) -> None:
        log.warning("no TensorBoard log in %s: %s", self._path, error)
        self.close()


def _preformatted(text: str) -> str:
    """Return Markdown that shows `text` as it is: an indented block."""
    return "\n".join("    " + line for line in text.encode("utf-8", "replace").decode().split("\n"))
