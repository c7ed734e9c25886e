"""The limits of an API key on its requests and streams in progress; `app.http.auth` finds the key."""

from contextlib import AsyncExitStack

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.http.errors import error_response
from app.http.middleware import HttpMiddleware
from app.keys import Key
from app.services.concurrency_limits import ConcurrencyLimits
from models.errors import Busy

_STREAM_TYPES = ("text/event-stream", "application/x-ndjson")


class ConcurrencyLimit(HttpMiddleware):
    """Responds with 429 when a key has as many requests, or streams, in progress as it may have.

    A stream is a response of events or lines. Whether a request gets one is known when its response begins.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: Key | None = scope["state"].get("key")
        if key is None or (key.max_requests is None and key.max_streams is None):
            await self._app(scope, receive, send)
            return
        limits: ConcurrencyLimits = scope["state"]["services"].concurrency
        async with AsyncExitStack() as held:
            if key.max_requests is not None:
                try:
                    await held.enter_async_context(limits.hold("requests", key.name, key.max_requests))
                except Busy as error:
                    await error_response(error)(scope, receive, send)
                    return
            if key.max_streams is None:
                await self._app(scope, receive, send)
                return
            streams = _Streams(limits, key, held, scope, receive, send)
            await self._app(scope, streams.receive, streams.send)


class _Streams:
    """The two sides of a request, of which one more stream may be refused."""

    def __init__(
        self,
        limits: ConcurrencyLimits,
        key: Key,
        held: AsyncExitStack,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._limits, self._key, self._held = limits, key, held
        self._scope, self._receive, self._send = scope, receive, send
        self._is_refused = False

    async def receive(self) -> Message:
        """Return the next message; for a refused stream, that the client has disconnected."""
        return {"type": "http.disconnect"} if self._is_refused else await self._receive()

    async def send(self, message: Message) -> None:
        """Pass a message on; respond with 429 instead of a stream too many."""
        if self._is_refused:
            return
        if message["type"] == "http.response.start" and _begins_stream(message):
            assert self._key.max_streams is not None
            try:
                limit = self._limits.hold("streams", self._key.name, self._key.max_streams)
                await self._held.enter_async_context(limit)
            except Busy as error:
                self._is_refused = True
                await error_response(error)(self._scope, self._receive, self._send)
                return
        await self._send(message)


def _begins_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAM_TYPES)
