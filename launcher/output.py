"""The launcher's output on standard error: its own messages, and warnings from the logs of the processes.

In the format `text` each line starts with its source; in the format `json` each line is a JSON object.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Literal

from nextchar.store.logs import escaped, utc

LogFormat = Literal["text", "json"]

_MIN_LEVELS = ("WARNING", "ERROR", "CRITICAL")
_TEXT_RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_VALKEY_RECORD = re.compile(r"^\d+:\S+ (?:\S+ ){4}([.*#-]) ")
_VALKEY_START = "WARNING Memory overcommit must be enabled"  # at each start, on most machines
# What libraries print. TensorFlow's logging starts with a warning about itself.
_BARE_WARNING = re.compile(
    r"^(?!WARNING: All log messages before absl).*\b(WARNING|ERROR|CRITICAL)\b|^Traceback |^nextchar: "
)


class Output:
    """Prints messages. Errors of the terminal or the disk are ignored, so that supervision continues."""

    def __init__(self, log_format: LogFormat = "text") -> None:
        self._is_json = log_format == "json"

    def say(self, text: str, *, source: str = "nextchar", level: str = "INFO") -> None:
        """Print a message of the launcher, or a line that a library in a process printed."""
        if self._is_json:
            logger = "nextchar.launcher" if source == "nextchar" else source
            self._print(
                json.dumps({"time": utc(time.time()), "level": level, "logger": logger, "message": text})
            )
        else:
            self._print(f"{source}: {text}")

    def repeat(self, line: str, *, source: str) -> None:
        """Print a line of the log of a process."""
        if self._is_json and line.startswith("{"):
            self._print(line)
        else:
            self.say(escaped(line), source=source, level="WARNING")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            print(line, file=sys.stderr, flush=True)


class WarningFilter:
    """Selects the warnings and errors in a log, with the indented lines after them."""

    def __init__(self) -> None:
        self._is_shown = False

    def pick(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the warnings and errors among the next lines of the log."""
        for line in lines:
            if not line.startswith("    "):
                self._is_shown = is_warning(line)
            if self._is_shown:
                yield line


def is_warning(line: str) -> bool:
    """Return whether the first line of a record has a level of WARNING or above."""
    if match := _TEXT_RECORD.match(line):
        return match[1] in _MIN_LEVELS
    if match := _VALKEY_RECORD.match(line):
        return match[1] == "#" and _VALKEY_START not in line
    if line.startswith('{"time": '):
        with contextlib.suppress(ValueError):
            return json.loads(line).get("level") in _MIN_LEVELS
    return _BARE_WARNING.search(line) is not None
