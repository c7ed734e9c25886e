"""The limits of an API key on its requests and streams in progress; `app.http.auth` finds the key."""

from contextlib import AsyncExitStack

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.access.concurrency_limits import ConcurrencyLimits
from nextchar.app.access.keys import Key
from nextchar.app.http.errors import error_response
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.models.errors import Busy

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
        limits: ConcurrencyLimits = scope["state"]["services"][ConcurrencyLimits]
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
            max_streams, is_refused = key.max_streams, False

            async def receive_unless_refused() -> Message:
                return {"type": "http.disconnect"} if is_refused else await receive()

            async def send_unless_refused(message: Message) -> None:
                nonlocal is_refused
                if is_refused:
                    return
                if message["type"] == "http.response.start" and _begins_stream(message):
                    try:
                        await held.enter_async_context(limits.hold("streams", key.name, max_streams))
                    except Busy as error:
                        is_refused = True
                        await error_response(error)(scope, receive, send)
                        return
                await send(message)

            await self._app(scope, receive_unless_refused, send_unless_refused)


def _begins_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAM_TYPES)
