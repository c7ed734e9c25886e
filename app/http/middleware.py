"""Middleware around every request: its id, its rule, the limits on its body, and protection against pages.

Pages attack by DNS rebinding and by cross-site request forgery. A browser lets any page send simple requests,
such as forms and texts, to any host. A page whose host name is
made to resolve to this machine (DNS rebinding) can also read the responses. Only browsers are affected.
"""

import asyncio
import ipaddress
import logging
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection
from functools import lru_cache
from random import getrandbits
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextchar.app.http.errors import Forbidden, error_response
from nextchar.app.http.incoming_body import IncomingBody, body_too_large
from nextchar.app.http.rules import SMALL_JSON, Body
from nextchar.app.http.services import name_of
from nextchar.app.http.threads import CLIENT, Client
from nextchar.store.logs import REQUEST_ID

log = logging.getLogger("nextchar.api")

_METHODS_WITHOUT_BODY = ("GET", "HEAD")  # no route reads a body with these
_VALID_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


class HttpMiddleware(ABC):
    """The base class: plain ASGI, so that streams and disconnects pass through unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    # Not async: a coroutine more for each of a dozen middlewares would be resumed at each await.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; pass on other connections."""
        return (self._serve if scope["type"] == "http" else self._app)(scope, receive, send)

    @abstractmethod
    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None: ...


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
                await error_response(body_too_large(expected.max_bytes))(scope, receive, send)
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


BROWSER_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response that does not set them itself: a browser runs nothing in it, does not guess its
type, and lets no page of another origin embed or frame it."""

_BROWSER_HEADERS = [(name.lower().encode(), value.encode()) for name, value in BROWSER_HEADERS.items()]
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MAX_QUOTED_CHARACTERS = 200  # of a header in an error


class HostCheck(HttpMiddleware):
    """Responds with 421 if the Host header names another service, as a rebound host name does.

    It allows `hosts`, in which `*.example.org` means every name below example.org; this machine's name;
    localhost; and every IP address, because an address cannot be rebound.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        super().__init__(app)
        names = {host.lower() for host in hosts if host}
        self._names = {"localhost", socket.gethostname().lower(), *names}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._allows_once = lru_cache(maxsize=256)(self.allows)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        # HTTP/1.0 needs no Host header, and health checks of proxies have none.
        is_allowed = all(map(self._allows_once, hosts)) if hosts else scope["http_version"] == "1.0"
        if is_allowed:
            await self._app(scope, receive, send)
            return
        message = (
            f"{_quoted(hosts)} is not a host name of this service; to allow it, add it to"
            " NEXTCHAR_ALLOWED_HOSTS"
        )
        await error_response(HTTPException(421, message))(scope, receive, send)

    def allows(self, host: str) -> bool:
        """Return whether a Host header, with a port or without, names this service."""
        name, _ = split_port(host)
        name = name.removesuffix(".")
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)


class CrossSiteCheck(HttpMiddleware):
    """Rejects a write request from a page of an origin other than `origins` and the service's own with 403.

    That is any method but GET, HEAD and OPTIONS, and the preflight request for it. A request with an API key
    passes: a browser does not add one by itself, and a page that adds one needs permission by CORS.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(app)
        self._origins = frozenset(origins)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_read = scope["method"] in ("GET", "HEAD")
        if is_read or self._allows(headers) or _needs_no_check(scope["method"], headers):
            await self._app(scope, receive, send)
            return
        origin = headers.get(b"origin", b"another site").decode("latin-1")
        error = Forbidden(
            f"pages of {_quoted([origin])} may not make this call; to allow it, add their origin to"
            " NEXTCHAR_ALLOWED_ORIGINS",
            code="origin_not_allowed",
        )
        await error_response(error)(scope, receive, send)

    def _allows(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin", b"").decode("latin-1")
        site = headers.get(b"sec-fetch-site")
        if origin in self._origins or site in (b"same-origin", b"none"):
            return True
        if site is None:  # not a browser, an old one, or plain HTTP
            return not origin or is_own_origin(origin, headers.get(b"host", b"").decode("latin-1"))
        return False


class BrowserHeaders(HttpMiddleware):
    """Adds BROWSER_HEADERS to responses that lack them. Pages set policies of their own."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                present = {name for name, _ in headers}
                message["headers"] = [*headers, *(one for one in _BROWSER_HEADERS if one[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def is_own_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header is the origin of the service that the Host header names.

    A proxy may terminate TLS, so schemes only count for their default ports.

    >>> is_own_origin("https://a.example", "a.example"), is_own_origin("http://localhost", "localhost:8000")
    (True, False)
    """
    scheme, _, authority = origin.partition("://")
    name, port = split_port(authority)
    host_name, host_port = split_port(host)
    default = _DEFAULT_PORTS.get(scheme)
    return bool(default and name) and name == host_name and (port or default) == (host_port or default)


def split_port(authority: str) -> tuple[str, str]:
    """Return the name, in lower case and without brackets, and the port, which may be empty.

    >>> split_port("Example.org:8000"), split_port("[::1]"), split_port("a:b")
    (('example.org', '8000'), ('::1', ''), ('a:b', ''))
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^\[\]:]*)(?::(\d*))?", authority)
    if match is None:
        return authority.lower(), ""
    return match[1].lower().strip("[]"), match[2] or ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _needs_no_check(method: str, headers: dict[bytes, bytes]) -> bool:
    if method == "OPTIONS":
        return b"access-control-request-method" not in headers
    return b"x-api-key" in headers or headers.get(b"authorization", b"")[:7].lower() == b"bearer "


def _quoted(values: list[str]) -> str:
    return " and ".join(repr(value[:_MAX_QUOTED_CHARACTERS]) for value in values) or "''"
