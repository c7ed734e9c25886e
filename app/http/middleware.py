"""Middleware around every request: its id, its metrics, the limits on its body, and unexpected errors."""

import asyncio
import logging
import re
from collections.abc import Awaitable
from random import getrandbits
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextchar.app.http.dependencies import name_of
from nextchar.app.http.errors import error_response
from nextchar.app.http.incoming_body import IncomingBody
from nextchar.app.http.rules import SMALL_JSON, Body
from nextchar.app.http.threads import CLIENT, Client
from nextchar.store.logs import REQUEST_ID

log = logging.getLogger("nextchar.api")

_METHODS_WITHOUT_BODY = ("GET", "HEAD")  # no route reads a body with these
_VALID_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


class HttpMiddleware:
    """The base class: plain ASGI, so that streams and disconnects pass through unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    # Not async: a coroutine more for each of a dozen middlewares would be resumed at each await.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; pass on other connections."""
        return (self._serve if scope["type"] == "http" else self._app)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class RequestId(HttpMiddleware):
    """Sets X-Request-Id, the client's own if it is valid, and responds to unexpected errors and at the end.

    An unexpected error gets 500. What runs for longer than a server that is stopped waits is cancelled by it
    and gets 503.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = (value for name, value in scope["headers"] if name == b"x-request-id")
        header = next(given, b"").decode("latin-1")
        request_id = header if _VALID_REQUEST_ID.fullmatch(header) else f"{getrandbits(64):016x}"
        REQUEST_ID.set(request_id)  # uvicorn serves each request in its own context
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if has_started:
                raise
            headers = {"Retry-After": "1", "Connection": "close"}
            stopped = HTTPException(503, "the server is stopping; send the request again", headers)
            await error_response(stopped)(scope, receive, send_with_id)
        except Exception as error:
            log.exception("request %s: %s %s", request_id, scope["method"], scope["path"])
            if has_started:
                raise  # the response has begun; the server closes the connection
            await error_response(error)(scope, receive, send_with_id)


class ClientTurns(HttpMiddleware):
    """Notes whose request it is: each client has a limited number of calls in threads."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._clients: WeakValueDictionary[str, Client] = WeakValueDictionary()  # with requests

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = name_of(scope)
        CLIENT.set(self._clients.get(name) or self._clients.setdefault(name, Client(name)))
        await self._app(scope, receive, send)


class FindRule(HttpMiddleware):
    r"""Notes the rule of a request (`nextchar.app.http.rules`).

    Answers 404 to a path that ends with a line feed (`%0A`): the routes' regular expressions end with `$`,
    which also matches before a final line feed, so they would serve such a request, although every check of
    the path before them takes it for another path.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, path = scope["state"], scope["path"]
        if path.endswith("\n"):
            await error_response(HTTPException(404))(scope, receive, send)
            return
        state["rule"] = state["rules"].find(scope["method"], path)
        await self._app(scope, receive, send)


class BodyLimit(HttpMiddleware):
    """Refuses bodies that are too long or arrive too slowly (`nextchar.app.http.incoming_body`)."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        expected: Body = scope["state"]["rule"].body or SMALL_JSON
        if scope["method"] in _METHODS_WITHOUT_BODY or expected.is_endless(scope):
            await self._app(scope, receive, send)
            return
        if expected.max_bytes is not None:
            declared = Headers(scope=scope).get("content-length", "0")
            if declared.isdecimal() and int(declared) > expected.max_bytes:
                await error_response(HTTPException(413))(scope, receive, send)
                return
        services = scope["state"]["services"]
        timeout_s, memory = services.settings.body_timeout_s, services.body_memory
        body = IncomingBody(receive, memory=memory, timeout_s=timeout_s, max_bytes=expected.max_bytes)
        scope["state"]["incoming_body"] = body

        async def send_and_release(message: Message) -> None:
            # The route has returned and its request is freed; a stream can go on for as long as it likes.
            if message["type"] == "http.response.start" and body.is_complete:
                body.release()
            await send(message)

        try:
            await self._app(scope, body.receive, send_and_release)
        finally:
            body.release()
