"""What surrounds every request: its id, a bound on its body, and the last catch for mistakes.

Written as plain ASGI, so that streams and disconnects pass through untouched.
"""

import logging
import re
from collections.abc import Collection
from random import getrandbits

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import error_response
from app.http.incoming_body import IncomingBody
from app.services.score_stream import is_streamed
from store.logs import REQUEST_ID

log = logging.getLogger("nextchar.api")

MAX_JSON_BYTES = 32 << 20  # a million characters, each up to 12 bytes as JSON, fit with room to spare
MAX_PLAIN_JSON_BYTES = 1 << 20  # where no document is sent: what is wrong with each field is listed in memory

_WITHOUT_BODY = ("GET", "HEAD")  # no route reads a body sent with these
_SANE_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


class RequestId:
    """Answers with X-Request-Id, the client's own where it is sane, and turns a mistake into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _SANE_ID.fullmatch(sent) else f"{getrandbits(64):016x}"
        REQUEST_ID.set(request_id)  # uvicorn serves each request in a context of its own
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log.exception("request %s: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise  # the answer is half sent; the server cuts the connection
            await error_response(error)(scope, receive, send_with_id)


class BodyLimit:
    """Refuses bodies that are too long or come too slowly (`app.http.incoming_body`).

    Texts have a limit of their own. Lines that are scored as they come may be hours apart.
    """

    def __init__(self, app: ASGIApp, *, unlimited_paths: Collection[str]) -> None:
        self._app = app
        self._unlimited_paths = unlimited_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY or _streams_lines(scope):
            await self._app(scope, receive, send)
            return
        limit_bytes = None
        if scope["path"] not in self._unlimited_paths:
            limit_bytes = MAX_PLAIN_JSON_BYTES if _has_no_document(scope) else MAX_JSON_BYTES
            declared = Headers(scope=scope).get("content-length", "0")
            if declared.isdecimal() and int(declared) > limit_bytes:
                await error_response(HTTPException(413))(scope, receive, send)
                return
        services = scope["state"]["services"]
        timeout_s = services.settings.body_timeout_s
        body = IncomingBody(receive, memory=services.body_memory, timeout_s=timeout_s, max_bytes=limit_bytes)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()


def _has_no_document(scope: Scope) -> bool:
    return bool(scope["method"] == "PATCH" or scope["path"].startswith(("/v1/jobs", "/v1/fine_tuning/")))


def _streams_lines(scope: Scope) -> bool:
    """Whether lines are sent to be scored as they come, which takes no memory."""
    return bool(scope["path"].endswith("/score")) and is_streamed(scope)
