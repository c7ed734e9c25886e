"""The client of nextchar's HTTP API for asyncio, with the methods of `Client`."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import count
from typing import Self, Unpack

import httpx

from nextchar.client import DEFAULT_SERVER, ServiceCalls
from nextchar.lines import AsyncLines, ThreadedLines, check_lines, line_of
from nextchar.options import LineOptions
from nextchar.transport import AsyncioTransport, http_options, setup_errors
from nextchar.types import ScoredLine

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
