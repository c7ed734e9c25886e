"""Bytes as they come, cut into numbered lines and gathered into batches. Knows no HTTP and no terminal.

A thread reads ahead into a small queue, so what has come while a batch was being answered is the next one:
a line that comes alone waits for nothing, and a file of any size is read in large batches in flat memory.
"""

import io
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE_BYTES = 200_004
"""Of a longer line the rest is dropped: 50,000 characters are scored, 4 bytes more tell that it is cut."""

_PIECE_BYTES = 1 << 16
_AHEAD = 8  # pieces
_PAUSE_S = (
    0.05  # lines that trickle in are sent together, so many seconds after the last batch at the earliest
)


@dataclass(frozen=True)
class Line:
    """A line without its newline, where it was found: its number from 1, and the offset of its first byte."""

    file: str
    number: int
    offset: int
    data: bytes


class Cutter:
    r"""Cuts the bytes of one file, which come in pieces, into lines.

    >>> cutter = Cutter("log", longest=4)
    >>> [(l.number, l.offset, l.data) for l in (*cutter.feed(b"ab\ncdefgh\ni"), *cutter.finish())]
    [(1, 0, b'ab'), (2, 3, b'cdef'), (3, 10, b'i')]
    """

    def __init__(self, file: str, *, longest: int = LONGEST_LINE_BYTES) -> None:
        self._file, self._longest = file, longest
        self._held = bytearray()  # the beginning of the line that has not ended
        self._dropped = 0  # bytes of it beyond the longest
        self._number, self._offset = 1, 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """Take the next bytes; yield the lines that end in them."""
        first, *others = data.split(b"\n")
        self._hold(first)
        for part in others:
            yield self._end()
            self._hold(part)

    def finish(self) -> Iterator[Line]:
        """Yield the last line, if it has no newline."""
        if self._held:
            yield self._end()

    def _hold(self, part: bytes) -> None:
        kept = part[: self._longest - len(self._held)]
        self._held += kept
        self._dropped += len(part) - len(kept)

    def _end(self) -> Line:
        line = Line(self._file, self._number, self._offset, bytes(self._held))
        self._number += 1
        self._offset += len(self._held) + self._dropped + 1
        self._held.clear()
        self._dropped = 0
        return line


class Batches:
    """The lines of files, one file after the other, as they come. `-` is standard input."""

    def __init__(self, files: Sequence[str]) -> None:
        self._pieces: queue.Queue[tuple[str, bytes] | OSError | None] = queue.Queue(_AHEAD)
        self._cutter: Cutter | None = None
        self._is_over = False
        self._error: OSError | None = None
        self._is_interrupted = False
        self._not_before = 0.0
        threading.Thread(target=self._read, args=(list(files),), daemon=True).start()

    def take(self, most_bytes: int) -> list[Line]:
        """Wait for a line and return it with those that have come with it; an empty list at the end.

        They are about `most_bytes` at most: a piece of 65,536 bytes and a longest line may come on top.
        Raises OSError when a file cannot be read, once the lines before it have been returned, and
        KeyboardInterrupt after `interrupt`.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
        if self._error:
            raise self._error
        lines: list[Line] = []
        size = 0
        while not self._is_over and size < most_bytes:
            wait_s = max(0.0, self._not_before - time.monotonic())
            try:
                piece = self._pieces.get(timeout=wait_s) if lines and wait_s else self._pieces.get(not lines)
            except queue.Empty:
                break
            if isinstance(piece, OSError):
                self._error = piece
                if not lines:
                    raise piece
                break
            for line in self._cut(piece):
                lines.append(line)
                size += len(line.data) + 1
        self._not_before = time.monotonic() + _PAUSE_S
        return lines

    def interrupt(self) -> None:
        """Give no more lines."""
        self._is_interrupted = True

    def _cut(self, piece: tuple[str, bytes] | None) -> Iterator[Line]:
        if piece is None:
            self._is_over = True
            return
        file, data = piece
        self._cutter = self._cutter or Cutter(file)
        if data:
            yield from self._cutter.feed(data)
        else:  # the end of this file
            yield from self._cutter.finish()
            self._cutter = None

    def _read(self, files: list[str]) -> None:
        for file in files:
            try:
                with _open(file) as source:
                    while data := source.read(_PIECE_BYTES):
                        self._pieces.put((file, data))
                self._pieces.put((file, b""))
            except OSError as error:
                self._pieces.put(error)
                return
            except BaseException:
                self._pieces.put(OSError(f"{file} cannot be read"))
                raise
        self._pieces.put(None)


def _open(file: str) -> BinaryIO:
    """Open a file so that reading returns what has come, without waiting for more."""
    if file != "-":
        return Path(file).open("rb", buffering=0)
    if sys.stdin is None:
        raise OSError("standard input is closed")
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except io.UnsupportedOperation:  # standard input was replaced by an object in memory
        return sys.stdin.buffer
