"""TensorBoard event files from a job's events."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("nextchar.worker")

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
