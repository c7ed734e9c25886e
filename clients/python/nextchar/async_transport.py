"""Carries out operations over httpx for asyncio: as `transport`, with `await`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

import httpx

from nextchar.effects import Content, Effect, Emit, Head, Open, Operation, Read, Sleep, Stream, Take
from nextchar.errors import NextcharError
from nextchar.transport import http_errors, message_of, next_effect

T = TypeVar("T")

_PIECE_BYTES = 1 << 16


async def run_async(http: httpx.AsyncClient, operation: Operation[T]) -> T:
    """As `run`, without blocking."""
    connection = _AsyncConnection(http)
    answer: Any = None
    error: NextcharError | None = None
    try:
        while True:
            effect = next_effect(operation, answer, error)
            answer, error = None, None
            try:
                answer = await connection.perform(effect)
            except NextcharError as caught:
                error = caught
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        operation.close()
        await connection.close()


async def iterate_async(http: httpx.AsyncClient, stream: Stream[T]) -> AsyncGenerator[T, None]:
    """As `iterate`, without blocking."""
    connection = _AsyncConnection(http)
    answer: Any = None
    error: NextcharError | None = None
    try:
        while True:
            try:
                effect = next_effect(stream, answer, error)
            except StopIteration:
                return
            answer, error = None, None
            if isinstance(effect, Emit):
                yield effect.value
                continue
            try:
                answer = await connection.perform(effect)
            except NextcharError as caught:
                error = caught
    finally:
        stream.close()
        await connection.close()


class _AsyncConnection:
    """Performs the effects of one operation, awaiting them."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def perform(self, effect: Effect) -> Any:
        match effect:
            case Open(request):
                await self.close()
                with http_errors(self._http):
                    message = message_of(request)
                    if not isinstance(request.content, bytes | None):
                        message["content"] = _in_threads(request.content)
                    self._response = await self._http.send(self._http.build_request(**message), stream=True)
                self._pieces = self._response.aiter_bytes()
                return Head(self._response.status_code, self._response.headers)
            case Read():
                assert self._pieces is not None, "Open comes before Read"
                with http_errors(self._http):
                    return await anext(self._pieces, b"")
            case Take(source, max_bytes):
                return await source.take(max_bytes)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
        return None

    async def close(self) -> None:
        if self._response is not None:
            response, self._response = self._response, None
            await response.aclose()


async def _in_threads(content: Content) -> AsyncIterator[bytes]:
    """Yield a body that is read by blocking calls, each made in a thread."""
    assert not isinstance(content, bytes)
    pieces = iter(lambda: content.read(_PIECE_BYTES), b"") if hasattr(content, "read") else iter(content)
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
