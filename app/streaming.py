"""Server-sent events: the only place that frames them.

An error in mid-stream cannot change the status any more, so it becomes a last event named `error`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.errors import answer

log = logging.getLogger("nextchar.api")

PING_S = 15.0
"""Silence after which a comment is sent, so that proxies keep the connection and a lost one is noticed."""


@dataclass(frozen=True)
class ServerEvent:
    """One event: its name, its body as JSON, and the id a client may come back with."""

    event: str
    data: BaseModel
    id: int | None = None


Events = AsyncGenerator[ServerEvent, None]


class EventStream(StreamingResponse):
    """Answers with `events` until they end; `on_close` is called then, or when the client goes away."""

    def __init__(self, events: Events, *, on_close: Callable[[], None] = lambda: None) -> None:
        self._events = events
        self._on_close = on_close
        # Proxies that buffer would hold single characters back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_framed(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()
            await self._events.aclose()


def frame(event: ServerEvent) -> bytes:
    r"""Return an event as it goes over the wire; JSON has no raw newlines, so one data line is enough.

    >>> frame(ServerEvent("done", BaseModel(), id=3))
    b'id: 3\nevent: done\ndata: {}\n\n'
    """
    number = f"id: {event.id}\n" if event.id is not None else ""
    return f"{number}event: {event.event}\ndata: {event.data.model_dump_json()}\n\n".encode()


async def _framed(events: Events) -> AsyncGenerator[bytes, None]:
    following: asyncio.Task[ServerEvent] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((following,), timeout=PING_S)
            if not done:
                yield b": ping\n\n"
                continue
            ready, following = following, None
            yield frame(ready.result())
    except StopAsyncIteration:
        return
    except Exception as error:
        status, body = answer(error)
        if status == 500:
            log.exception("a stream broke")
        yield frame(ServerEvent("error", body))
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait((following,))
