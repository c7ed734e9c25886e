"""Child processes that die with this process, their log files, and signals.

A supervised process: restarted when it ends, after a pause that grows.

A process that keeps failing does not stop the others; it is restarted for as long as the launcher runs. Only
a first process that exits because of invalid settings ends the start of the stack.

The launcher's output on standard error: its own messages, and warnings from the logs of the processes.

In the format `text` each line starts with its source; in the format `json` each line is a JSON object.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from nextchar.models.die_with_parent import bound
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


LOG_BYTES = 10_000_000
"""A log larger than this is rotated to <name>.1."""


class LauncherError(Exception):
    """The stack cannot run; the message says what to do."""


def cannot_write(data_dir: Path, error: OSError) -> LauncherError:
    """Return the error for a data folder that cannot be written."""
    return LauncherError(
        f"cannot write to the data folder {data_dir}: {error.strerror}; "
        "make it writable or set NEXTCHAR_DATA_DIR to another folder"
    )


def handle(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> None:
    """Call `handler` on each of these signals, but for those that are ignored, as SIGHUP is under nohup."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def start_bound(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: bytes = b"",
    keep_open: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program that is killed when the calling thread ends.

    Its output is appended to `log`. It has its own session, so Ctrl-C in the terminal reaches only this
    process, which stops its children in order. The program inherits the file descriptors `keep_open`.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            bound(*command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            start_new_session=True,
            pass_fds=keep_open,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has already exited; its exit status is checked later
        process.stdin.write(stdin)
        process.stdin.close()
    return process


def prepare_log(log: Path) -> None:
    """Create the folder of a log, and rotate the log if it is large."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(_rotated(log))


def rotate(log: Path) -> None:
    """Copy a log that is in use to <name>.1, and truncate it.

    The writer has the file open in append mode, so its next line goes to the start. A line written between
    the copy and the truncation is lost. Without space for the copy, a log of twice LOG_BYTES is truncated
    without one.

    Raises:
        OSError: the log could not be copied, and is unchanged.
    """
    rotated = _rotated(log)
    rotated.unlink(missing_ok=True)  # first, to make room for the copy
    try:
        with log.open("rb") as source, rotated.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.truncate(log, 0)
    except OSError:
        rotated.unlink(missing_ok=True)
        if log.stat().st_size < 2 * LOG_BYTES:
            raise
        os.truncate(log, 0)


def _rotated(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def stop(process: "subprocess.Popen[bytes]", *, grace_s: float) -> None:
    """Terminate a process (SIGTERM), and kill it after `grace_s` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last lines of a log, indented, from at most its last 10,000 bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    return "\n".join("    " + line for line in lines) or "    (nothing)"


_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_STABLE_S = 60.0  # running this long resets the count of failures
_MIN_FAILURES_SHOWN = 4  # then the end of the log is printed, at each doubling of the failures
_LOG_RETRY_S = 60.0  # after an error with the log file
_INVALID_SETTINGS = 2  # exit status


class SupervisedProcess:
    """A named process, its consecutive failures, and `log`, the file that it appends to.

    `start` may raise OSError, e.g. if memory is exhausted.
    """

    def __init__(
        self, name: str, start: Callable[[], "subprocess.Popen[bytes]"], log: Path, output: Output
    ) -> None:
        self.name = name
        self.log = log
        self._output = output
        self._warnings = WarningFilter()
        self.failures = 0  # consecutive
        self.last_failure = ""
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False  # as of the last check
        self._started_at_s = 0.0
        self._next_start_s = 0.0
        self._has_ended = False
        self._next_read_s = 0.0
        prepare_log(log)
        log.touch()
        self._unread: IO[bytes] = log.open("rb")
        self._unread.seek(0, os.SEEK_END)  # skip what earlier runs wrote

    @property
    def pid(self) -> int:
        """The process id; another after a restart."""
        assert self._process is not None, "not started"
        return self._process.pid

    def keep_running(self) -> None:
        """Start the process if it is not running and its pause is over.

        Raises:
            LauncherError: the first process has exited because of invalid settings.
        """
        now = time.monotonic()
        if self._is_up and self._process is not None and self._process.poll() is not None:
            self._is_up = False
            self._record_exit(self._process.returncode, now)
        if not self._is_up and now >= self._next_start_s:
            self._started_at_s = now
            try:
                self._process = self._start()
            except OSError as error:  # no memory, processes or file descriptors left
                self._record_failure(f"could not be started ({error})", now)
            else:
                self._is_up = True

    def stop(self, grace_s: float) -> None:
        """Stop the process; kill it after `grace_s` seconds."""
        if self._process is not None:
            stop(self._process, grace_s=grace_s)

    def print_new_warnings(self) -> None:
        """Print warnings that were logged since the last call; rotate the log if it is large."""
        now = time.monotonic()
        if now < self._next_read_s:
            return
        try:
            size = os.fstat(self._unread.fileno()).st_size
            if size < self._unread.tell():  # it was truncated
                log = self.log.open("rb")
                self._unread.close()
                self._unread = log
            for line in self._warnings.pick(self._new_lines()):
                self._output.repeat(line, source=self.name)
            if size > LOG_BYTES:
                rotate(self.log)
        except OSError as error:  # supervision must continue without the log
            self._next_read_s = now + _LOG_RETRY_S
            self._output.say(f"the log of the {self.name}: {error}", level="WARNING")

    def _new_lines(self) -> list[str]:
        """Return the complete lines that were logged since the last call."""
        lines = []
        while line := self._unread.readline():
            if not line.endswith(b"\n"):  # an incomplete line, for the next call
                self._unread.seek(-len(line), os.SEEK_CUR)
                break
            # Keep the indentation: it marks the further lines of a record.
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
        return lines

    def close(self) -> None:
        """Close the log."""
        self._unread.close()

    def _record_exit(self, status: int, now: float) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == _INVALID_SETTINGS and not self._has_ended:
            raise LauncherError(self._with_log(f"the {self.name} {how}"))
        self._has_ended = True
        self._record_failure(how, now)

    def _record_failure(self, how: str, now: float) -> None:
        if now - self._started_at_s >= _STABLE_S:
            self.failures = 0
        self.failures += 1
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self._next_start_s = now + pause_s
        times = f", {self.failures} times in a row" if self.failures > 1 else ""
        self.last_failure = self._with_log(f"the {self.name} {how}{times}")
        doubled = self.failures & (self.failures - 1) == 0
        self._output.say(f"the {self.name} {how}; restarting it in {pause_s:g} s", level="WARNING")
        if doubled and self.failures >= _MIN_FAILURES_SHOWN:
            self._output.say(self.last_failure, level="ERROR")

    def _with_log(self, sentence: str) -> str:
        return f"{sentence}; the end of {self.log}:\n{last_lines(self.log)}"
