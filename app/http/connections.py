"""Limits on connections: their number, the time until a request's header is complete, and unread responses.

A connection whose header is not complete by a deadline is closed. At the maximum number of connections a new
one replaces those that have made the server wait longest: first those without a complete header, then those
that are idle, send a body or do not read their response. A connection whose request is being handled is never
replaced. Bodies have deadlines of their own, in `nextchar.app.http.incoming_body`.

A connection serves one request at a time. One more may wait, since a client can know the end of a response
before the application has sent its last, empty piece. A client that sends a third one is pipelining: its
connection is broken off.

The kernel closes a connection whose client has acknowledged nothing for UNREAD_S. Responses that are not read
take memory: if all together exceed a limit, those that have made no progress for longest are broken off.
"""

import asyncio
import contextlib
import heapq
import logging
import resource
import socket
import time
from collections import deque
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nextchar.app.http.errors import error_response

log = logging.getLogger("nextchar.api.connections")

MAX_HEADER_BYTES = 64 << 10
"""Maximum size of a request's header, of the trailer of its body, and of the framing of one of its chunks."""

MAX_HEADERS = 256
"""Every check of a request looks through all of them."""

UNREAD_S = 300
"""A connection whose client reads nothing of its response for this long is closed."""

KEEPALIVE_S = 60
"""The time without traffic after which TCP asks whether the peer is still there."""

_MAX_UNSENT_BYTES = 16 << 10
_MAX_OPEN_FILES = (65_536, 10_240)  # macOS reports no limit, but allows only the second
_MAX_DEFAULT_CONNECTIONS = 8192
_REPLACED_AT_ONCE = 100  # one of so many connections: looking for the longest waiting takes a millisecond
_SWEEP_S = 1.0
_MAX_REQUESTS = 2  # of one connection at once
_WARN_EVERY_S = 60.0
_TOO_MANY = (
    "%d connections are open, the maximum for this process; the longest waiting ones are closed. Set"
    " NEXTCHAR_MAX_CONNECTIONS to raise the limit"
)
_TOO_MUCH_UNREAD = (
    "responses that their clients do not read take more than %d bytes; the oldest are closed. Set"
    " NEXTCHAR_BODY_MEMORY_BYTES to raise the limit"
)


def raise_open_files_limit() -> None:
    """Raise the limit on open files, for this process and its children, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for max_files in _MAX_OPEN_FILES:
        target = max_files if hard == resource.RLIM_INFINITY else min(hard, max_files)
        if soft == resource.RLIM_INFINITY or soft >= target:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return


def default_max_connections() -> int:
    """Return a third of the limit on open files: an upload needs two, and new connections come in bursts."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_DEFAULT_CONNECTIONS
    return min(_MAX_DEFAULT_CONNECTIONS, soft // 3)


class OncePerMinute(logging.Filter):
    """Drops a warning that was logged in the last minute: anyone can cause those about requests."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        now = time.monotonic()
        if now - self._logged_at.get(record.msg, -_WARN_EVERY_S) < _WARN_EVERY_S:
            return record.levelno != logging.WARNING
        self._logged_at[record.msg] = now
        return True


ONCE_PER_MINUTE = OncePerMinute()
log.addFilter(ONCE_PER_MINUTE)


class Connections:
    """The open connections of one process.

    Args:
        max_connections: how many may be open; 0 means `default_max_connections`.
        header_timeout_s: a connection without a complete header is closed after this many seconds.
        max_unread_bytes: of all responses that are written and not read; one may have more.
    """

    def __init__(self, *, max_connections: int, header_timeout_s: float, max_unread_bytes: int) -> None:
        self._max_connections = max_connections or default_max_connections()
        self._header_timeout_s, self._max_unread_bytes = header_timeout_s, max_unread_bytes
        self._all: set[BoundedHttpProtocol] = set()
        self.paused: set[BoundedHttpProtocol] = set()  # whose clients read more slowly than the server writes

    async def watch(self) -> None:
        """Close connections whose header is overdue, and those with too much unread, until cancelled."""
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._header_timeout_s / 2))
            try:
                began_by_s = time.monotonic() - self._header_timeout_s
                for connection in list(self._all):
                    if connection.needs_header and connection.since_s <= began_by_s:
                        connection.refuse(408)
                self.limit_unread(self._all)
            except Exception:  # this loop must continue, or slow clients would never be disconnected
                log.exception("closing connections whose clients are slow")

    def add(self, connection: "BoundedHttpProtocol") -> None:
        """Count a new connection; replace others by it, or refuse it if all others are being served."""
        if len(self._all) >= self._max_connections:
            log.warning(_TOO_MANY, self._max_connections)
            waiting = [one for one in self._all if not one.is_being_served]
            count = 1 + self._max_connections // _REPLACED_AT_ONCE
            for one in heapq.nsmallest(count, waiting, key=lambda one: (not one.needs_header, one.since_s)):
                self._abort(one)
            if not waiting:
                connection.refuse(503)
                return
        self._all.add(connection)

    def remove(self, connection: "BoundedHttpProtocol") -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        self.paused.discard(connection)

    def limit_unread(self, connections: "Collection[BoundedHttpProtocol]") -> None:
        """Break off responses if what is not read of all takes too much memory; one may have more."""
        unread = {one: size for one in connections if (size := one.transport.get_write_buffer_size())}
        excess = sum(unread.values()) - self._max_unread_bytes
        for one in sorted(unread, key=lambda one: one.since_s)[:-1] if excess > 0 else ():
            log.warning(_TOO_MUCH_UNREAD, self._max_unread_bytes)
            self._abort(one)
            excess -= unread[one]
            if excess <= 0:
                return

    def _abort(self, connection: "BoundedHttpProtocol") -> None:
        self.remove(connection)
        connection.transport.abort()


class BoundedHttpProtocol(asyncio.Protocol):
    """Passes what it receives on to uvicorn's protocol, under the limits of the application's `Connections`.

    A parser of its own finds where requests begin and end; `NoteResponses` reports where responses do.
    """

    transport: asyncio.Transport
    since_s = 0.0
    """When it began to need a header, or else when it was last active."""
    arrived_s = 0.0
    """When the last header or body was complete: many requests that arrive at once wait for each other."""

    _is_idle = False  # nothing was received since the last response
    _is_body_complete = True
    _has_sent = _needed_header = False
    _header_bytes = 0  # received since the last byte that was not part of a header, trailer or frame
    _requests = _responses = 0  # with a complete header; complete
    _target = b""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._connections: Connections = app_state["services"].connections
        self._server = HttpToolsProtocol(config, server_state, app_state | {"connection": self}, _loop)
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._hosts: deque[bytes] = deque()  # in the targets of requests that the application has not begun
        self.eof_received = self._server.eof_received  # type: ignore[method-assign]

    @property
    def has_request(self) -> bool:
        """Whether a request is being received or handled."""
        return self._requests > self._responses

    @property
    def needs_header(self) -> bool:
        """Whether the next bytes belong to a header, or to the rest of a refused body."""
        return not (self.has_request or self._is_idle or self.transport.is_closing())

    @property
    def is_being_served(self) -> bool:
        """Whether a complete request is being handled and the client reads the response."""
        return self.has_request and self._is_body_complete and self not in self._connections.paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a connection."""
        self.transport = cast(asyncio.Transport, transport)
        self._server.connection_made(self.transport)
        _set_socket_options(self.transport)
        self._note_activity()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister a connection."""
        self._connections.remove(self)
        self._server.connection_lost(exc)
        del self._server, self._parser, self.eof_received  # which refer to this

    def data_received(self, data: bytes) -> None:
        """Note what the next bytes belong to, and pass them on."""
        self._has_sent, self._is_idle = True, False
        self._header_bytes += len(data)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(data)  # uvicorn answers what is invalid
        if not self.transport.is_closing():
            self._server.data_received(data)
        self._note_activity()
        if self._header_bytes > MAX_HEADER_BYTES:
            self.refuse(431)

    def on_message_begin(self) -> None:
        """Begin a request, or break off a connection with too many."""
        if self._requests - self._responses >= _MAX_REQUESTS:
            self.transport.abort()
        self._target = b""

    def on_url(self, url: bytes) -> None:
        """Note a part of a request's target."""
        self._target += url

    def on_headers_complete(self) -> None:
        """Note that a header is complete."""
        self._hosts.append(_host_of(self._target))
        self._requests += 1
        self._has_body(is_complete=False)

    def on_body(self, _: bytes) -> None:
        """Note bytes of a body."""
        self._header_bytes = 0

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        self._has_body(is_complete=True)

    def _has_body(self, *, is_complete: bool) -> None:
        self._header_bytes, self._is_body_complete = 0, is_complete
        self.arrived_s = time.perf_counter()

    def begin_request(self) -> bytes:
        """Return the host in the target of the next request, if it has one."""
        return self._hosts.popleft()

    def end_response(self) -> None:
        """Continue with the next request, or wait for one."""
        self._responses += 1
        self._is_idle = not self.has_request
        self._note_activity()

    def pause_writing(self) -> None:
        """Record that the client reads more slowly than its response is sent."""
        self._server.pause_writing()
        self._connections.paused.add(self)
        self._note_activity()
        self._connections.limit_unread(self._connections.paused)

    def resume_writing(self) -> None:
        """Record that the client has caught up."""
        self._server.resume_writing()
        self._connections.paused.discard(self)
        self._note_activity()

    def _note_activity(self) -> None:
        """Note when it is active; more bytes of a header give it no more time."""
        needs_header = self.needs_header
        if not (needs_header and self._needed_header):
            self.since_s = time.monotonic()
        self._needed_header = needs_header

    def refuse(self, status: int) -> None:
        """Close the connection; send an error if the client has begun a request, or may not connect (503).

        If it is in the middle of another response, that is broken off.
        """
        if self.has_request:
            self.transport.abort()
            return
        has_begun = self._has_sent and self._is_body_complete  # of a refused body the rest follows
        if (has_begun or status == 503) and not self.transport.is_closing():
            headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
            response = error_response(HTTPException(status, headers=headers))
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
            lines += [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self.transport.close()


class NoteResponses:
    """Tells a connection when its requests begin and end; refuses large headers. The outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        connection: BoundedHttpProtocol | None = scope.get("state", {}).get("connection")
        if scope["type"] != "http" or connection is None:  # of a server without these limits
            await self._app(scope, receive, send)
            return

        async def send_and_note(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                connection.end_response()

        headers = scope["headers"]
        if host := connection.begin_request():
            headers[:] = [(b"host", host), *(header for header in headers if header[0] != b"host")]
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in headers)
        if size > MAX_HEADER_BYTES or len(headers) > MAX_HEADERS:
            refused = error_response(HTTPException(431, headers={"Connection": "close"}))
            await refused(scope, receive, send_and_note)
        else:
            await self._app(scope, receive, send_and_note)


def _host_of(target: bytes) -> bytes:
    """Return the host of an absolute-form target, which counts instead of the header (RFC 9112, 3.2.2)."""
    if target.startswith(b"/"):
        return b""
    with contextlib.suppress(httptools.HttpParserInvalidURLError):  # uvicorn responds with 400
        url = httptools.parse_url(target)
        if url.host:
            host = b"[%b]" % url.host if b":" in url.host else bytes(url.host)
            return host + (b":%d" % url.port if url.port else b"")
    return b""


def _set_socket_options(transport: asyncio.Transport) -> None:
    """Limit what the kernel buffers, and let it close connections whose peer is gone or does not read.

    By default it buffers megabytes, so a stream would continue for long although its client does not read.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return  # such as a Unix socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_NOTSENT_LOWAT": _MAX_UNSENT_BYTES,
        "TCP_KEEPIDLE": KEEPALIVE_S,
        "TCP_KEEPINTVL": KEEPALIVE_S,
        "TCP_USER_TIMEOUT": round(UNREAD_S * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has each
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
