"""How calls reach a server from asyncio."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from nextchar.upload import Content

_PIECE_BYTES = 1 << 16


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
