"""As much of a terminal as the live view needs: lines that wrap, a cursor, and a program to run in it."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from fcntl import ioctl

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


class Terminal:
    """Lines of any length and a cursor; wrapped anew, as most terminals do, when the width changes."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.cursor_is_hidden = False
        self.widest_row = 0
        self._lines = [""]  # logical lines: a row and what it wraps into
        self._line = 0
        self._column = 0

    @property
    def rows(self) -> list[str]:
        """What is to be seen, row by row, without the empty rows below."""
        found = []
        for line in self._lines:
            found += [line[i : i + self.columns] for i in range(0, max(1, len(line)), self.columns)]
        return "\n".join(row.rstrip() for row in found).rstrip("\n").split("\n")

    def feed(self, text: str) -> None:
        for token in _TOKEN.finditer(text):
            if token[2]:
                self._control(token[1], token[2])
            elif token[0] == "\r":
                self._column -= self._column % self.columns
            elif token[0] == "\n":
                self._line, self._column = self._line + 1, 0
                if self._line == len(self._lines):
                    self._lines.append("")
            else:
                line = self._lines[self._line].ljust(self._column)
                self._lines[self._line] = (
                    line[: self._column] + token[0] + line[self._column + len(token[0]) :]
                )
                self._column += len(token[0])
                self.widest_row = max(self.widest_row, self._column)

    def _control(self, numbers: str, letter: str) -> None:
        match letter:
            case "A":
                for _ in range(int(numbers or 1)):
                    self._up()
            case "K":
                self._lines[self._line] = self._lines[self._line][: self._column]
            case "J":
                self._lines[self._line] = self._lines[self._line][: self._column]
                del self._lines[self._line + 1 :]
            case "h" | "l":
                self.cursor_is_hidden = letter == "l"

    def _up(self) -> None:
        if self._column >= self.columns:
            self._column -= self.columns
        elif self._line:
            self._line -= 1
            last_row = (max(1, len(self._lines[self._line])) - 1) // self.columns
            self._column = last_row * self.columns + self._column


def run_in_terminal(
    arguments: list[str],
    *,
    columns: int,
    rows: int = 24,
    environment: Mapping[str, str],
    timeout_s: float = 100,
) -> tuple[str, int]:
    """Run `python arguments` in a pseudo-terminal; return all that it wrote, and its exit status."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environment},
    ) as process:
        os.close(theirs)
        written, deadline = b"", time.monotonic() + timeout_s
        try:
            while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # Linux says EIO at the end
                    piece = b""
                if not piece:
                    return written.decode(), process.wait()
                written += piece
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
    raise AssertionError(f"the program did not end; it wrote:\n{written.decode(errors='replace')}")
