"""One process that is kept running: started again when it ends, after a pause that grows.

A part that keeps dying never stops the others; it is tried again for as long as the launcher runs. Only a
first process that says its settings are wrong ends the start. Knows a part as something to start and its
log, nothing of what it does.
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from launcher.output import Output, WarningFilter
from launcher.processes import LOG_BYTES, LauncherError, last_lines, prepare_log, rotate, stop

_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_STABLE_S = 60.0  # a process that lived this long ends a series of failures
_MIN_FAILURES_SHOWN = 4  # from here on the end of the log is shown, at every doubling
_LOG_RETRY_S = 60.0  # after a log could not be read or set aside
_WRONG_SETTINGS = 2  # the exit status of a process whose settings are wrong


class Part:
    """A named process, its log, and how often it has failed.

    Args:
        name: for the launcher's output.
        start: starts the process. It may raise OSError when the machine is out of something.
        log: the file that the process appends to.
        output: where the launcher speaks.
    """

    def __init__(
        self, name: str, start: Callable[[], "subprocess.Popen[bytes]"], log: Path, output: Output
    ) -> None:
        self.name = name
        self.log = log
        self._output = output
        self._warnings = WarningFilter()
        self.failures = 0  # in a row
        self.last_failure = ""
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False  # as far as we have noticed
        self._started_at_s = 0.0
        self._start_at_s = 0.0  # not before
        self._has_ended = False
        self._read_at_s = 0.0  # not before
        prepare_log(log)
        log.touch()
        self._unread: IO[bytes] = log.open("rb")
        self._unread.seek(0, os.SEEK_END)  # what earlier runs wrote has been shown

    @property
    def pid(self) -> int:
        """The process id of the newest start."""
        assert self._process is not None, "not started"
        return self._process.pid

    def keep_running(self) -> None:
        """Start the process if it is not there and its pause is over.

        Raises:
            LauncherError: the first process has ended and says that its settings are wrong.
        """
        now = time.monotonic()
        if self._is_up and self._process is not None and self._process.poll() is not None:
            self._is_up = False
            self._note_end(self._process.returncode, now)
        if not self._is_up and now >= self._start_at_s:
            self._started_at_s = now
            try:
                self._process = self._start()
            except OSError as error:  # out of memory, processes or file descriptors
                self._note_failure(f"cannot be started ({error})", now)
            else:
                self._is_up = True

    def stop(self, grace_s: float) -> None:
        """End the process, by force after `grace_s` seconds."""
        if self._process is not None:
            stop(self._process, grace_s=grace_s)

    def read_log(self) -> None:
        """Repeat the warnings that came to the log since the last call; set the log aside if it is large."""
        now = time.monotonic()
        if now < self._read_at_s:
            return
        try:
            size = os.fstat(self._unread.fileno()).st_size
            if size < self._unread.tell():  # it was emptied
                log = self.log.open("rb")
                self._unread.close()
                self._unread = log
            for line in self._warnings.pick(self._new_lines()):
                self._output.repeat(line, who=self.name)
            if size > LOG_BYTES:
                rotate(self.log)
        except OSError as error:  # no descriptor or no room: the processes must be looked after all the same
            self._read_at_s = now + _LOG_RETRY_S
            self._output.say(f"the log of the {self.name}: {error}", level="WARNING")

    def _new_lines(self) -> list[str]:
        """Return the whole lines that came to the log since the last call."""
        lines = []
        while line := self._unread.readline():
            if not line.endswith(b"\n"):  # half a line; the rest comes with the next call
                self._unread.seek(-len(line), os.SEEK_CUR)
                break
            # Of a blank line in a traceback the indentation stays: it tells what the line belongs to.
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
        return lines

    def close(self) -> None:
        """Read no more of the log."""
        self._unread.close()

    def _note_end(self, status: int, now: float) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == _WRONG_SETTINGS and not self._has_ended:
            raise LauncherError(self._with_log(f"the {self.name} {how}"))
        self._has_ended = True
        self._note_failure(how, now)

    def _note_failure(self, how: str, now: float) -> None:
        if now - self._started_at_s >= _STABLE_S:
            self.failures = 0
        self.failures += 1
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self._start_at_s = now + pause_s
        times = f", {self.failures} times in a row" if self.failures > 1 else ""
        self.last_failure = self._with_log(f"the {self.name} {how}{times}")
        doubled = self.failures & (self.failures - 1) == 0
        shown = self.last_failure if doubled and self.failures >= _MIN_FAILURES_SHOWN else ""
        self._output.say(f"the {self.name} {how}; starting it again in {pause_s:g} s", level="WARNING")
        if shown:
            self._output.say(shown, level="ERROR")

    def _with_log(self, sentence: str) -> str:
        return f"{sentence}; the end of {self.log}:\n{last_lines(self.log)}"
