"""The client of nextchar's HTTP API for asyncio, with the methods of `Client`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from itertools import count
from typing import Any, Self, Unpack

import httpx

from nextchar.client import DEFAULT_SERVER, ServiceCalls
from nextchar.lines import Line, LineBuffer, Lines, check_lines, line_of
from nextchar.options import LineOptions
from nextchar.transport import http_options, setup_errors
from nextchar.types import ScoredLine
from nextchar.upload import Content

_PIECE_BYTES = 1 << 16


class AsyncClient(ServiceCalls):
    """A connection to one server, for asyncio. Use it with `async with`, or `await aclose()`.

    It has the arguments and methods of `Client`: what returns a value there is awaited here, and what is
    iterated there is iterated with `async for`. To leave such a loop early, use `contextlib.aclosing`, which
    closes the connection at once.

    >>> async with AsyncClient() as client:  # doctest: +SKIP
    ...     async with aclosing(client.stream("nietzsche", "morality equals ")) as events:
    ...         async for event in events:
    ...             print(event["data"].get("text", ""), end="")
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        max_retries: int = 2,
        patience_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        server = server.rstrip("/")
        with setup_errors(server):
            self._http = httpx.AsyncClient(**http_options(server, api_key), transport=transport)
        super().__init__(AsyncioTransport(self._http), server, max_retries, patience_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def score_lines(
        self,
        model: str,
        lines: AsyncIterable[str | bytes] | Iterable[str | bytes],
        **options: Unpack[LineOptions],
    ) -> AsyncGenerator[ScoredLine, None]:
        """As `Client.score_lines`; an asynchronous iterable is read by a task, any other one by a thread."""
        check_lines(lines)
        if isinstance(lines, AsyncIterable):
            return self._score_numbered(model, AsyncLines(lines), options)
        return self._score_numbered(model, ThreadedLines(map(line_of, count(1), lines)), options)


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


class AsyncioTransport:
    """Sends requests on the running event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, message: dict[str, Any]) -> httpx.Response:
        """As `Transport.send`."""
        content = message.get("content")
        if content is not None and not isinstance(content, bytes):
            message = {**message, "content": _in_threads(content)}
        return await self._http.send(self._http.build_request(**message), stream=True)

    async def sleep(self, seconds: float) -> None:
        """As `Transport.sleep`."""
        await asyncio.sleep(seconds)


async def _in_threads(content: Content) -> AsyncIterator[bytes]:
    """Yield a body that is read by blocking calls, each made in a thread."""
    assert not isinstance(content, bytes)
    pieces = iter(lambda: content.read(_PIECE_BYTES), b"") if hasattr(content, "read") else iter(content)
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
