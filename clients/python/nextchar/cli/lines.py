"""Numbered lines of files or standard input, in batches, as they come.

A thread reads ahead into a bounded queue. The next batch is what arrived while the last one was being scored:
a single line does not wait for others, and a large file is read in large batches in constant memory.
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

from nextchar.lines import MAX_LINE_BYTES

_CHUNK_BYTES = 1 << 16
_READ_AHEAD_CHUNKS = 8
_MIN_INTERVAL_S = 0.05  # between batches, so that lines that trickle in are sent together


@dataclass(frozen=True)
class Line:
    """A line without its newline; its number counts from 1, its offset is in bytes."""

    file: str
    number: int
    offset: int
    data: bytes


class LineSplitter:
    r"""Splits the chunks of one file into lines.

    >>> splitter = LineSplitter("log", max_bytes=4)
    >>> [(l.number, l.offset, l.data) for l in (*splitter.feed(b"ab\ncdefgh\ni"), *splitter.finish())]
    [(1, 0, b'ab'), (2, 3, b'cdef'), (3, 10, b'i')]
    """

    def __init__(self, file: str, *, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._held = bytearray()  # the start of the unfinished line
        self._dropped = 0  # bytes of it beyond the maximum
        self._number, self._offset = 1, 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """Take the next chunk; yield the lines that end in it."""
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
        kept = part[: self._max_bytes - len(self._held)]
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
        self._chunks: queue.Queue[tuple[str, bytes] | OSError | None] = queue.Queue(_READ_AHEAD_CHUNKS)
        self._splitter: LineSplitter | None = None
        self._is_over = False
        self._error: OSError | None = None
        self._is_interrupted = False
        self._not_before = 0.0
        threading.Thread(target=self._read, args=(list(files),), daemon=True).start()

    def take(self, max_bytes: int) -> list[Line]:
        """Wait for a line and return it with those that arrived with it; an empty list at the end.

        The batch exceeds `max_bytes` by one chunk of 65,536 bytes and one line at most.
        Raises OSError when a file cannot be read, once the lines before it have been returned, and
        KeyboardInterrupt after `interrupt`.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
        if self._error:
            raise self._error
        lines: list[Line] = []
        size = 0
        while not self._is_over and size < max_bytes:
            wait_s = max(0.0, self._not_before - time.monotonic())
            try:
                chunk = self._chunks.get(timeout=wait_s) if lines and wait_s else self._chunks.get(not lines)
            except queue.Empty:
                break
            if isinstance(chunk, OSError):
                self._error = chunk
                if not lines:
                    raise chunk
                break
            for line in self._split(chunk):
                lines.append(line)
                size += len(line.data) + 1
        self._not_before = time.monotonic() + _MIN_INTERVAL_S
        return lines

    def interrupt(self) -> None:
        """Make `take` raise KeyboardInterrupt from now on."""
        self._is_interrupted = True

    def _split(self, chunk: tuple[str, bytes] | None) -> Iterator[Line]:
        if chunk is None:
            self._is_over = True
            return
        file, data = chunk
        self._splitter = self._splitter or LineSplitter(file)
        if data:
            yield from self._splitter.feed(data)
        else:  # the end of this file
            yield from self._splitter.finish()
            self._splitter = None

    def _read(self, files: list[str]) -> None:
        for file in files:
            try:
                with _open(file) as source:
                    while data := source.read(_CHUNK_BYTES):
                        self._chunks.put((file, data))
                self._chunks.put((file, b""))
            except OSError as error:
                self._chunks.put(error)
                return
            except BaseException:
                self._chunks.put(OSError(f"{file} cannot be read"))
                raise
        self._chunks.put(None)


def _open(file: str) -> BinaryIO:
    """Open a file so that a read returns what has arrived, without waiting for more."""
    if file != "-":
        return Path(file).open("rb", buffering=0)
    if sys.stdin is None:
        raise OSError("standard input is closed")
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except io.UnsupportedOperation:  # standard input is an object in memory
        return sys.stdin.buffer
