"""A supervised process: restarted when it ends, after a pause that grows.

A process that keeps failing does not stop the others; it is restarted for as long as the launcher runs. Only
a first process that exits because of invalid settings ends the start of the stack.
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nextchar.launcher.output import Output, WarningFilter
from nextchar.launcher.processes import LOG_BYTES, LauncherError, last_lines, prepare_log, rotate, stop

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
