"""Server-sent events: the only place that frames them.

An error in mid-stream cannot change the status any more, so it becomes a last event named `error`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.errors import answer

log = logging.getLogger("nextchar.api")

UNREAD_S = 300.0
"""A client that reads nothing for so long is left."""

PING_S = 15.0
"""Silence after which a comment is sent, so that proxies keep the connection and a lost one is noticed."""


@dataclass(frozen=True)
class ServerEvent:
    """One event: its name, its body as JSON (or text as it is), and the id a client may come back with."""

    event: str
    data: BaseModel | str
    id: int | None = None


Events = AsyncGenerator[ServerEvent, None]


class EventStream(Response):
    """Answers with `events` until they end; `on_close` is called then, or when the client goes away.

    `named=False` leaves the events' names out, as other people's protocols do.
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
        # Proxies that buffer would hold single characters back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Tasks for the stream as a whole: one an event would cost more than the event.
        sending = asyncio.ensure_future(self._send_all(send))
        others = (asyncio.ensure_future(_until_gone(receive)), asyncio.ensure_future(self._ping(send)))
        try:
            await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_close()
            for task in (sending, *others):
                task.cancel()
            ended = await asyncio.gather(sending, *others, return_exceptions=True)
            await self._events.aclose()
        if isinstance(ended[0], Exception) and not isinstance(ended[0], OSError):  # OSError: nobody reads
            raise ended[0]

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                await self._send(send, frame(event, named=self._named))
        except OSError:
            raise
        except Exception as error:
            status, body = answer(error)
            if status == 500:
                log.exception("a stream broke")
            await self._send(send, frame(ServerEvent("error", body), named=self._named))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        """Send a comment after each silence; return when the client has read nothing for UNREAD_S."""
        while True:
            await asyncio.sleep(PING_S)
            silent_s = time.monotonic() - self._sent_at_s
            if self._is_sending:
                if silent_s >= UNREAD_S:  # a timeout for each event would cost more than the event
                    return
            elif silent_s >= PING_S:
                async with asyncio.timeout(UNREAD_S):
                    await self._send(send, b": ping\n\n")

    async def _send(self, send: Send, data: bytes) -> None:
        self._sent_at_s = time.monotonic()
        self._is_sending = True
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_sending = False


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def frame(event: ServerEvent, *, named: bool = True) -> bytes:
    r"""Return an event as it goes over the wire; JSON has no raw newlines, so one data line is enough.

    >>> frame(ServerEvent("done", BaseModel(), id=3))
    b'id: 3\nevent: done\ndata: {}\n\n'
    """
    number = f"id: {event.id}\n" if event.id is not None else ""
    name = f"event: {event.event}\n" if named else ""
    data = event.data if isinstance(event.data, str) else event.data.model_dump_json()
    return f"{number}{name}data: {data}\n\n".encode()
