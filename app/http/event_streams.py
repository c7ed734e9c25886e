"""Server-sent events.

An error within a stream cannot change the status, so it becomes the last event, named `error`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextchar.app.http.errors import status_and_body

log = logging.getLogger("nextchar.api")

UNREAD_S = 300.0
"""The connection of a client that reads nothing for this long is closed."""

PING_S = 15.0
"""A comment is sent after this long without an event, to keep the connection open and to detect its loss."""


@dataclass(frozen=True)
class ServerEvent:
    """One event: its name, its data (sent as JSON, or verbatim if a string) and its id for Last-Event-ID."""

    event: str
    data: BaseModel | str
    id: int | None = None


Events = AsyncGenerator[ServerEvent, None]


class EventStream(Response):
    """Sends `events`; calls `on_close` when they end or the client disconnects.

    `named=False` omits the events' names, as other protocols do.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: Events, *, on_close: Callable[[], None] = lambda: None, named: bool = True
    ) -> None:
        self._events = events
        self._named = named
        self._on_close = on_close
        self._sent_at_s = 0.0
        self._is_sending = False
        # X-Accel-Buffering: buffering proxies would delay single characters.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Tasks per stream, because a task per event would cost more than the event.
        sending = asyncio.ensure_future(self._send_all(send))
        others = (
            asyncio.ensure_future(_wait_for_disconnect(receive)),
            asyncio.ensure_future(self._ping(send)),
        )
        try:
            await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_close()
            for task in (sending, *others):
                task.cancel()
            ended = await asyncio.gather(sending, *others, return_exceptions=True)
            await self._events.aclose()
        if isinstance(ended[0], Exception) and not isinstance(ended[0], OSError):  # OSError: disconnected
            raise ended[0]

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                await self._send(send, frame(event, named=self._named))
        except OSError:
            raise
        except Exception as error:
            status, body = status_and_body(error)
            if status == 500:
                log.exception("an event stream failed")
            await self._send(send, frame(ServerEvent("error", body), named=self._named))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        """Send a comment after PING_S without an event; return if the client reads nothing for UNREAD_S."""
        while True:
            await asyncio.sleep(PING_S)
            silent_s = time.monotonic() - self._sent_at_s
            if self._is_sending:
                if silent_s >= UNREAD_S:  # checked here: a timeout per event would cost too much
                    return
            elif silent_s >= PING_S:
                async with asyncio.timeout(UNREAD_S):
                    await self._send(send, b": ping\n\n")

    async def _send(self, send: Send, data: bytes) -> None:
        self._sent_at_s = time.monotonic()
        self._is_sending = True
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_sending = False


def stream_responses(description: str, example: Any, event: str) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's declaration of a response that is JSON or a stream, with an example of both."""
    events = {"schema": {"type": "string"}, "example": event}
    content = {"application/json": {"example": example}, "text/event-stream": events}
    return {200: {"description": description, "content": content}}


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def frame(event: ServerEvent, *, named: bool = True) -> bytes:
    r"""Return an event's bytes. JSON has no raw newlines, so one data line suffices.

    >>> frame(ServerEvent("done", "{}", id=3))
    b'id: 3\nevent: done\ndata: {}\n\n'
    """
    id_line = f"id: {event.id}\n" if event.id is not None else ""
    name_line = f"event: {event.event}\n" if named else ""
    data = event.data if isinstance(event.data, str) else event.data.model_dump_json()
    return f"{id_line}{name_line}data: {data}\n\n".encode()
