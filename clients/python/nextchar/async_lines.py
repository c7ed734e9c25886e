"""Lines read ahead for asyncio: as `lines`, with `await`."""

import asyncio
from collections.abc import AsyncIterable

from nextchar.lines import Line, LineBuffer, Lines, line_of


class ThreadedLines(Lines):
    """The lines of an iterable for an event loop: both the iterable and the waiting are in threads."""

    async def take(self, max_bytes: int) -> list[Line]:
        """As `LineSource.take`."""
        return await asyncio.to_thread(self._take, max_bytes)


class AsyncLines:
    """The lines of an asynchronous iterable, which a task reads from the first `take` on."""

    def __init__(self, lines: AsyncIterable[str | bytes]) -> None:
        self._source = lines
        self._buffer = LineBuffer()
        self._has_lines = asyncio.Event()
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def take(self, max_bytes: int) -> list[Line]:
        """As `LineSource.take`."""
        if self._task is None:
            self._task = asyncio.create_task(self._read())
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
