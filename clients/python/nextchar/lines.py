"""Lines read ahead from an iterable of any length, in bounded memory.

What has come while a batch was being scored is the next batch: a line that comes alone is scored at once,
and a file is scored in large batches.
"""

import threading
from collections import deque
from collections.abc import Iterable

from nextchar.effects import Line
from nextchar.errors import NextcharError

MAX_LINE_BYTES = 200_004
"""Of a longer line the rest is not sent: 50,000 characters are scored, 4 bytes more show that it is cut."""

_MAX_AHEAD_BYTES = 1 << 20
_LINE_BYTES = 100  # that a line counts for beside its own, so that empty ones are bounded, too


class LineBuffer:
    """Numbered lines that wait to be sent."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._number = 0
        self.is_over = False
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def is_full(self) -> bool:
        """Whether no more is to be read for now."""
        return self._bytes >= _MAX_AHEAD_BYTES

    def append(self, text: str | bytes) -> None:
        """Add a line. Raises NextcharError if it holds several."""
        self._number += 1
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        data = data.removesuffix(b"\n")
        text = text.removesuffix("\n") if isinstance(text, str) else data
        if b"\n" in data:
            raise NextcharError(f"line {self._number} contains a newline; give each line by itself")
        self._lines.append(Line(self._number, text, data[:MAX_LINE_BYTES]))
        self._bytes += self._size(self._lines[-1])

    def pop(self, max_bytes: int) -> list[Line]:
        """Return the oldest lines, at least one if there is one, or raise the error that came after them."""
        taken: list[Line] = []
        size = 0
        while self._lines and (not taken or size + self._size(self._lines[0]) <= max_bytes):
            line = self._lines.popleft()
            size += self._size(line)
            taken.append(line)
        self._bytes -= size
        if not taken and self.error is not None:
            error, self.error = self.error, None
            raise error
        return taken

    @staticmethod
    def _size(line: Line) -> int:
        return len(line.data) + _LINE_BYTES


class Lines:
    """The lines of an iterable, which a thread reads from the first `take` on."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        self._source = lines
        self._buffer = LineBuffer()
        self._changed = threading.Condition()  # guards the buffer
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def take(self, max_bytes: int) -> list[Line]:
        """Wait for a line; return it with those that are there, or an empty list at the end.

        Raises what the iterable raises, once the lines before that have been returned.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="nextchar-lines", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._buffer.is_over or self._is_closed)
            taken = self._buffer.pop(max_bytes)
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Stop reading: at once if the buffer is full, else at the next line."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

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
