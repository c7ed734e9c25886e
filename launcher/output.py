"""What the launcher prints on standard error: its own messages, and the warnings that the parts log.

In the format `text` each line names who speaks; in the format `json` each line is a JSON object, as those of
the parts are. Knows how log lines begin, and nothing else of the parts.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Literal

from store.logs import escaped, utc

LogFormat = Literal["text", "json"]

_MIN_LEVELS = ("WARNING", "ERROR", "CRITICAL")
_TEXT_RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_VALKEY_RECORD = re.compile(r"^\d+:\S+ (?:\S+ ){4}([.*#-]) ")
_VALKEY_START = "WARNING Memory overcommit must be enabled"  # at each start, and no news to anybody
# What libraries print by themselves. TensorFlow's logging begins with a warning about itself.
_BARE_WARNING = re.compile(
    r"^(?!WARNING: All log messages before absl).*\b(WARNING|ERROR|CRITICAL)\b|^Traceback |^nextchar: "
)


class Output:
    """Where messages go. A terminal that is gone or a full disk must not stop what we look after."""

    def __init__(self, log_format: LogFormat = "text") -> None:
        self._is_json = log_format == "json"

    def say(self, text: str, *, who: str = "nextchar", level: str = "INFO") -> None:
        """Print a message of the launcher's own, or a line that a library of a part has printed."""
        if self._is_json:
            logger = "nextchar.launcher" if who == "nextchar" else who
            self._print(
                json.dumps({"time": utc(time.time()), "level": level, "logger": logger, "message": text})
            )
        else:
            self._print(f"{who}: {text}")

    def repeat(self, line: str, *, who: str) -> None:
        """Print a line of a part's log."""
        if self._is_json and line.startswith("{"):
            self._print(line)
        else:
            self.say(escaped(line), who=who, level="WARNING")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            print(line, file=sys.stderr, flush=True)


class WarningFilter:
    """Picks the lines of one log that are worth repeating; what is indented goes with the line before it."""

    def __init__(self) -> None:
        self._is_shown = False

    def pick(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the warnings and errors among the lines, which follow those of the last call."""
        for line in lines:
            if not line.startswith("    "):
                self._is_shown = is_warning(line)
            if self._is_shown:
                yield line


def is_warning(line: str) -> bool:
    """Return whether the first line of a record is of a warning or something worse."""
    if found := _TEXT_RECORD.match(line):
        return found[1] in _MIN_LEVELS
    if found := _VALKEY_RECORD.match(line):
        return found[1] == "#" and _VALKEY_START not in line
    if line.startswith('{"time": '):
        with contextlib.suppress(ValueError):
            return json.loads(line).get("level") in _MIN_LEVELS
    return _BARE_WARNING.search(line) is not None
