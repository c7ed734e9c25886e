"""Server-sent events, and numbered events of jobs or models that clients follow: each source is read once.

An error within a stream cannot change the status, so it becomes the last event, named `error`.

A feed reads its source in a thread of its own pool, a few times per second while it has followers, and
keeps the newest WINDOW events. Followers wait on the event loop. One that is behind the window, because it
has just come or its client reads slowly, reads for itself, READ_EVENTS at a time. So thousands of streams
that wait cost as much as one, and calls of other kinds do not wait for them.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio import CapacityLimiter
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextchar.app.http.errors import status_and_body

POLL_S = 0.25
WINDOW = 500
READ_EVENTS = 500
"""Events that a follower holds at a time."""

Numbered = tuple[int, dict[str, Any]]
"""An event and its number."""

log = logging.getLogger("nextchar.api")

UNREAD_S = 300.0
"""The connection of a client that reads nothing for this long is closed."""

PING_S = 15.0
"""A comment is sent after this long without an event, to keep the connection open and to detect its loss."""


@dataclass(frozen=True)
class NewEvents:
    """What a source has after a number, and its end, if it has ended."""

    events: list[Numbered] = field(default_factory=list)
    end: Any = None


class Source(Protocol):
    """Where events are read, in worker threads, by one thread at a time for `poll`."""

    def last_number(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        ...

    def read(self, after: int, limit: int) -> list[Numbered]:
        """Return up to `limit` events with numbers above `after`, oldest first."""
        ...

    def poll(self, after: int) -> NewEvents:
        """Return the events with numbers above `after`, and the end; called every POLL_S."""
        ...


class Feeds:
    """The feeds of one process that are followed. For one event loop."""

    def __init__(
        self,
        open_source: Callable[[str], Source],
        *,
        threads: CapacityLimiter,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._open_source, self._threads, self._is_stopping = open_source, threads, is_stopping
        self._feeds: dict[str, _Feed] = {}

    @property
    def count(self) -> int:
        """How many sources are followed."""
        return len(self._feeds)

    async def follow(
        self, name: str, *, after: int | None, restarts: bool = False
    ) -> AsyncGenerator[Any, None]:
        """Yield a source's events with numbers above `after`, by default those from now on, then its end.

        Ends without it when the process stops. With `restarts` numbers may start again: then all events are
        above an `after` that is greater than the newest number.

        Raises what reading the source raises.
        """
        if self._is_stopping():
            return
        feed = self._feeds.get(name)
        if feed is None:
            feed = self._feeds[name] = _Feed(self._open_source(name), self._threads, self._is_stopping)
        feed.followers += 1
        try:
            await feed.wait_until_open()
            if after is None:
                after = feed.last
            elif restarts and after > feed.last:
                after = 0
            async for item in feed.items(after):
                yield item
        finally:
            feed.followers -= 1
            if not feed.followers:
                feed.close()
            if not feed.followers and self._feeds.get(name) is feed:
                del self._feeds[name]


class _Feed:
    """One source that is followed."""

    def __init__(self, source: Source, threads: CapacityLimiter, is_stopping: Callable[[], bool]) -> None:
        self.followers = 0
        self.last = 0  # the number of the newest event
        self._source, self._threads, self._is_stopping = source, threads, is_stopping
        self._begin = 0  # the window has all events with numbers above this
        self._window: list[Numbered] = []
        self._end: Any = None
        self._has_ended = False
        self._error: Exception | None = None
        self._is_open = False
        self._changed = asyncio.Event()
        self._polling = asyncio.ensure_future(self._poll())

    def close(self) -> None:
        self._polling.cancel()

    async def wait_until_open(self) -> None:
        while not self._is_open:
            await self._changed.wait()
        if self._error:
            raise self._error

    async def items(self, after: int) -> AsyncGenerator[Any, None]:
        """Yield the events with numbers above `after`, then the end."""
        while True:
            changed, begin = self._changed, self._begin
            if after < begin:
                events = await self._run(self._source.read, after, READ_EVENTS)
                is_behind = len(events) == READ_EVENTS
            else:
                events = self._window[bisect_right(self._window, after, key=_number) :]
                begin, is_behind = after, False
            for event in events:
                yield event
                after = max(after, event[0])
            if not is_behind:
                after = max(after, begin)  # numbers may have gaps
            if events or after < self._begin:
                continue
            if self._error:
                raise self._error
            if self._has_ended:
                if self._end is not None:
                    yield self._end
                return
            await changed.wait()

    async def _poll(self) -> None:
        try:
            self.last = self._begin = await self._run(self._source.last_number)
            self._is_open = True
            self._notify()
            while not (self._has_ended or self._is_stopping()):
                news = await self._run(self._source.poll, self.last)
                if news.events:
                    self._window += news.events
                    self.last = self._window[-1][0]
                    if surplus := max(0, len(self._window) - WINDOW):
                        self._begin = self._window[surplus - 1][0]
                        del self._window[:surplus]
                self._end, self._has_ended = news.end, news.end is not None
                if news.events or self._has_ended:
                    self._notify()
                if not self._has_ended:
                    await asyncio.sleep(POLL_S)
        except Exception as error:  # noqa: BLE001 -- raised to all who follow
            self._error = error
        finally:
            self._is_open = self._has_ended = True
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _run(self, read: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(read, *arguments, limiter=self._threads)


def _number(event: Numbered) -> int:
    return event[0]


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
