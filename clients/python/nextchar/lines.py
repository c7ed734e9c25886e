"""Lines of files, responses and iterables of any length, read ahead in bounded memory, and their events.

What has come while a batch was being scored is the next batch: a line that comes alone is scored at once,
and a file is scored in large batches.
"""

import asyncio
import io
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from nextchar.errors import NextcharError

MAX_LINE_BYTES = 200_004
"""The rest of a longer line is not sent: 50,000 characters are scored, and 4 more bytes show that it is
truncated."""

_MAX_AHEAD_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_LINE_BYTES = 100  # that a line counts in addition to its own, so that empty ones are bounded, too


@dataclass(frozen=True)
class Line:
    """A line to be scored: its number from 1, the bytes that are sent, the text as it was given.

    Lines of files have no `text`, but the file's name and their offset in it, in bytes.
    """

    number: int
    data: bytes
    text: str | bytes = b""
    file: str = "-"
    offset: int = 0

    @property
    def size(self) -> int:
        """What it counts for, in bytes, in a batch and in the lines read ahead."""
        return len(self.data) + _LINE_BYTES


def line_of(number: int, text: str | bytes) -> Line:
    """Return a line with or without its newline. Raises NextcharError if it holds several."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    data = data.removesuffix(b"\n")
    if b"\n" in data:
        raise NextcharError(f"line {number} contains a newline; give each line by itself")
    return Line(number, data[:MAX_LINE_BYTES], text.removesuffix("\n") if isinstance(text, str) else data)


def joined(lines: Sequence[Line]) -> Line:
    """Return the lines of an event as one, at the place of the first."""
    if len(lines) == 1:
        return lines[0]
    first = lines[0]
    if isinstance(first.text, str):
        text: str | bytes = "\n".join(str(line.text) for line in lines)
    else:
        text = b"\n".join(bytes(line.text) for line in lines if isinstance(line.text, bytes))
    return replace(first, data=b"\n".join(line.data for line in lines), text=text)


def check_lines(lines: object) -> None:
    """Raise NextcharError if what is given as lines is one text, of which each character would be a line."""
    if isinstance(lines, str | bytes):
        raise NextcharError(
            f"lines must be an iterable of lines, not {type(lines).__name__}; give text.splitlines()"
        )


async def split_lines(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines that end in LF, without it; what the end cuts short is dropped."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line


def read_lines(files: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of files, one file after the other; `-` is standard input.

    Of a line longer than MAX_LINE_BYTES only the beginning is kept, also while it is read. Raises OSError.
    """
    for file in files:
        with _open(file) as source:
            yield from lines_of_stream(file, source)


def lines_of_stream(file: str, source: io.BufferedIOBase | BinaryIO) -> Iterator[Line]:
    r"""Yield the lines of an open file; one does not wait for the next.

    >>> [(l.number, l.offset, l.data) for l in lines_of_stream("log", io.BytesIO(b"ab\n\ncd"))]
    [(1, 0, b'ab'), (2, 3, b''), (3, 4, b'cd')]
    """
    number, offset = 0, 0
    while data := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield Line(number, data.removesuffix(b"\n")[:MAX_LINE_BYTES], file=file, offset=offset)
        offset += len(data)
        while not data.endswith(b"\n") and (data := source.readline(_CHUNK_BYTES)):
            offset += len(data)


def _open(file: str) -> BinaryIO:
    if file != "-":
        return Path(file).open("rb")
    if sys.stdin is None:
        raise OSError("standard input is closed")
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # standard input is an object in memory
        return sys.stdin.buffer


class LineSource(Protocol):
    """Lines read ahead."""

    async def take(self, max_bytes: int, *, wait_s: float | None = None) -> list[Line]:
        """Wait for a line; return it with those that are there. After `wait_s`, and at the end, return none.

        Raises what the source raises, once the lines before that have been returned.
        """

    def close(self) -> None:
        """Stop reading."""


class LineBuffer:
    """Lines that wait to be sent."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self.is_over = False
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def is_full(self) -> bool:
        """Whether no more is to be read for now."""
        return self._bytes >= _MAX_AHEAD_BYTES

    def append(self, line: Line) -> None:
        """Add a line."""
        self._lines.append(line)
        self._bytes += line.size

    def pop(self, max_bytes: int) -> list[Line]:
        """Return the oldest lines, at least one if there is one, or raise the error that came after them."""
        taken: list[Line] = []
        size = 0
        while self._lines and (not taken or size + self._lines[0].size <= max_bytes):
            line = self._lines.popleft()
            size += line.size
            taken.append(line)
        self._bytes -= size
        if not taken and self.error is not None:
            error, self.error = self.error, None
            raise error
        return taken


class Lines:
    """The lines of an iterable, which a thread reads from the first `take` on."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._source = lines
        self._buffer = LineBuffer()
        self._changed = threading.Condition()  # guards the buffer
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def take(self, max_bytes: int, *, wait_s: float | None = None) -> list[Line]:
        """As `LineSource.take`; waiting blocks the thread."""
        return self._take(max_bytes, wait_s)

    def close(self) -> None:
        """Stop reading: at once if the buffer is full, else at the next line."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _take(self, max_bytes: int, wait_s: float | None) -> list[Line]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="nextchar-lines", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._buffer.is_over or self._is_closed, wait_s)
            taken = [] if self._is_closed else self._buffer.pop(max_bytes)
            self._changed.notify_all()
            return taken

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for line in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: not self._buffer.is_full or self._is_closed)
                    if self._is_closed:
                        return
                    self._buffer.append(line)
                    self._changed.notify_all()
        except BaseException as caught:  # noqa: BLE001 - raised by `take`, in the caller's thread
            error = caught
        finally:
            with self._changed:
                self._buffer.is_over, self._buffer.error = True, error
                self._changed.notify_all()


class ThreadedLines(Lines):
    """The lines of an iterable for an event loop: both the iterable and the waiting are in threads."""

    async def take(self, max_bytes: int, *, wait_s: float | None = None) -> list[Line]:
        """As `LineSource.take`."""
        return await asyncio.to_thread(self._take, max_bytes, wait_s)


class AsyncLines:
    """The lines of an asynchronous iterable, which a task reads from the first `take` on."""

    def __init__(self, lines: AsyncIterable[str | bytes]) -> None:
        self._source = lines
        self._buffer = LineBuffer()
        self._has_lines = asyncio.Event()
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def take(self, max_bytes: int, *, wait_s: float | None = None) -> list[Line]:
        """As `LineSource.take`."""
        if self._task is None:
            self._task = asyncio.create_task(self._read())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self._buffer and not self._buffer.is_over:
                    self._has_lines.clear()
                    await self._has_lines.wait()
        taken = self._buffer.pop(max_bytes)
        self._has_room.set()
        return taken

    def close(self) -> None:
        """Cancel the task that reads."""
        if self._task is not None:
            self._task.cancel()

    async def _read(self) -> None:
        try:
            number = 0
            async for text in self._source:
                number += 1
                while self._buffer.is_full:
                    self._has_room.clear()
                    await self._has_room.wait()
                self._buffer.append(line_of(number, text))
                self._has_lines.set()
        except Exception as caught:  # noqa: BLE001 - raised by `take`
            self._buffer.error = caught
        finally:
            self._buffer.is_over = True
            self._has_lines.set()


async def decode_events(pieces: AsyncIterable[bytes]) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the type and the data of each server-sent event (WHATWG HTML, 9.2.6).

    Lines end in LF or CR LF, no others: U+2028 and its like are ordinary characters of the data. An event
    that the end of the stream cuts short is dropped.
    """
    kind, data = "message", list[str]()
    async for line in split_lines(pieces):
        field, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
        if field == "event":
            kind = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif line in (b"", b"\r"):
            if data:
                yield kind, "\n".join(data)
            kind, data = "message", []
