"""Limits on connections: their number, the time until a request's header is complete, and unread responses.

A connection whose header is not complete by a deadline is closed. At the maximum number of connections a new
one replaces the one that has made the server wait longest: first those without a complete header, then those
that are idle, send a body or do not read their response. A connection whose request is being handled is never
replaced. Bodies have deadlines of their own, in `nextchar.app.http.incoming_body`.

A connection serves one request at a time. One more may wait, since a client can know the end of a response
before the application has sent its last, empty piece. A client that sends a third one is pipelining: its
connection is broken off.

A client has UNREAD_S seconds for each MIN_READ_BYTES of its response. Responses that are not read take
memory: if all together exceed a limit, the connection without progress for the longest time is closed.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nextchar.app.http.errors import error_response

log = logging.getLogger("nextchar.api")

MAX_HEADER_BYTES = 64 << 10
"""Maximum size of a request's header, of the trailer of its body, and of the framing of one of its chunks."""

MAX_HEADERS = 256
"""Every check of a request looks through all of them."""

UNREAD_S = 300.0
"""A connection whose client has not read MIN_READ_BYTES of its response for this long is closed."""

MIN_READ_BYTES = 16 << 10

KEEPALIVE_TIMEOUT_S = 120
"""A connection without traffic, whose peer does not acknowledge TCP's probes for so long, is closed."""

_MAX_UNSENT_BYTES = 16 << 10
_MAX_OPEN_FILES = (65_536, 10_240)  # macOS reports no limit, but allows only the second
_MAX_DEFAULT_CONNECTIONS = 8192
_SWEEP_S = 1.0
_UNREAD_SWEEP_S = 5.0
_PROBES = 4
_MAX_REQUESTS = 2  # of one connection at once
_WARN_EVERY_S = 60.0
_TOO_MANY_CONNECTIONS = (
    "%d connections are open, the maximum for this process; the longest waiting ones are closed. Set"
    " NEXTCHAR_MAX_CONNECTIONS to raise the limit"
)
_TOO_MUCH_UNREAD = (
    "responses that their clients do not read take more than %d bytes; the oldest are closed. Set"
    " NEXTCHAR_BODY_MEMORY_BYTES to raise the limit"
)
_INVALID_REQUEST = "Invalid HTTP request received."  # as uvicorn says it


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


class Connections:
    """The open connections of one process.

    Args:
        max_connections: how many may be open; 0 means `default_max_connections`.
        header_timeout_s: a connection without a complete header is closed after this many seconds.
        max_unread_bytes: of all responses that are written and not read; one may have more.
    """

    def __init__(self, *, max_connections: int, header_timeout_s: float, max_unread_bytes: int) -> None:
        self._max_connections = max_connections or default_max_connections()
        self._header_timeout_s = header_timeout_s
        self._open = 0
        # Oldest first; the value is since when.
        self._without_header: OrderedDict[BoundedHttpProtocol, float] = OrderedDict()
        # Idle, sending a body, or not reading their response; least recently active first.
        self._waiting: OrderedDict[BoundedHttpProtocol, None] = OrderedDict()
        self._all: set[BoundedHttpProtocol] = set()
        self._max_unread_bytes = max_unread_bytes
        self._unread_bytes = 0  # of the next
        # Whose responses are not read as fast as they are written; least recent progress first.
        self._unread: OrderedDict[BoundedHttpProtocol, _Unread] = OrderedDict()
        self._warned_at = -_WARN_EVERY_S

    async def watch(self) -> None:
        """Close connections whose header is overdue or whose response is not read, until cancelled."""
        sweeps = 0
        while True:
            pause_s = min(_SWEEP_S, self._header_timeout_s / 2)
            await asyncio.sleep(pause_s)
            sweeps += 1
            try:
                self._close_overdue()
                if sweeps * pause_s >= _UNREAD_SWEEP_S:
                    sweeps = 0
                    self._close_unread()
            except Exception:  # this loop must continue, or slow clients would never be disconnected
                log.exception("closing connections whose clients are slow")

    def add(self, connection: "BoundedHttpProtocol") -> None:
        """Count a new connection; replace another by it, or refuse it if all others are being served."""
        self._open += 1
        self._all.add(connection)
        if self._open > self._max_connections:
            self._warn(_TOO_MANY_CONNECTIONS, self._max_connections)
            if not self._evict_oldest():
                connection.refuse(503, {"Retry-After": "1"})
                return
        self._without_header[connection] = time.monotonic()

    def remove(self, connection: "BoundedHttpProtocol") -> None:
        """Forget a connection that is closed."""
        self._open -= 1
        self._all.discard(connection)
        self._without_header.pop(connection, None)
        self._waiting.pop(connection, None)
        self._set_unread(connection, None)

    def update(self, connection: "BoundedHttpProtocol") -> None:
        """Record a connection's state. Call this whenever it may have changed."""
        if connection not in self._all:  # lost while its request was handled
            return
        if connection.needs_header:
            self._waiting.pop(connection, None)
            if connection not in self._without_header:
                self._without_header[connection] = time.monotonic()
            return
        self._without_header.pop(connection, None)
        if connection.is_being_served:
            self._waiting.pop(connection, None)
        else:
            self._waiting[connection] = None
            self._waiting.move_to_end(connection)

    def update_unread(self, connection: "BoundedHttpProtocol") -> None:
        """Record how much of a connection's response is not read. Call this when it is much."""
        size = connection.transport.get_write_buffer_size()
        before, now = self._unread.get(connection), time.monotonic()
        if not size:
            self._set_unread(connection, None)
        elif before is None or size <= before.bytes - MIN_READ_BYTES:
            self._set_unread(connection, _Unread(now, size))
        else:  # too little was read, or more was written
            most = max(size, before.bytes)
            self._unread[connection] = _Unread(before.since, most)
            self._unread_bytes += most - before.bytes
        while self._unread_bytes > self._max_unread_bytes and len(self._unread) > 1:
            self._warn(_TOO_MUCH_UNREAD, self._max_unread_bytes)
            self._abort(next(iter(self._unread)))

    def _close_unread(self) -> None:
        for connection in list(self._all):
            self.update_unread(connection)
        read_before = time.monotonic() - UNREAD_S
        for connection, unread in list(self._unread.items()):
            if unread.since <= read_before:
                self._abort(connection)

    def _abort(self, connection: "BoundedHttpProtocol") -> None:
        self._set_unread(connection, None)
        connection.abort()

    def _set_unread(self, connection: "BoundedHttpProtocol", unread: "_Unread | None") -> None:
        before = self._unread.pop(connection, None)
        self._unread_bytes -= before.bytes if before else 0
        if unread:
            self._unread[connection] = unread
            self._unread_bytes += unread.bytes

    def _close_overdue(self) -> None:
        began_before = time.monotonic() - self._header_timeout_s
        while self._without_header:
            connection, since = next(iter(self._without_header.items()))
            if since > began_before:
                return
            del self._without_header[connection]
            self._waiting[connection] = (
                None  # until it is closed, which takes long if its client does not read
            )
            connection.refuse(408)

    def _evict_oldest(self) -> bool:
        for connections in (self._without_header, self._waiting):
            if connections:
                connection, _ = connections.popitem(last=False)
                connection.abort()
                return True
        return False

    def _warn(self, message: str, *arguments: int) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            log.warning(message, *arguments)


@dataclass(frozen=True)
class _Unread:
    """How many bytes of a response are not read, and since when it was not MIN_READ_BYTES less."""

    since: float
    bytes: int


class InvalidRequestFilter(logging.Filter):
    """Drops uvicorn's warnings about requests, which anyone can cause, except of one invalid one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._warned_at = -_WARN_EVERY_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if record.msg != _INVALID_REQUEST:
            return "upgrade request" not in record.msg and "WebSocket library" not in record.msg
        now = time.monotonic()
        is_due = now - self._warned_at >= _WARN_EVERY_S
        if is_due:
            self._warned_at = now
        return is_due


INVALID_REQUEST_FILTER = InvalidRequestFilter()


class BoundedHttpProtocol(asyncio.Protocol):
    """Passes what it receives on to uvicorn's protocol, under the limits of the application's `Connections`.

    A parser of its own finds where requests begin and end; `NoteResponses` reports where responses do.
    """

    transport: asyncio.Transport
    _is_idle = False  # nothing was received since the last response
    _is_body_complete = True
    _has_sent = False
    _is_writing_paused = False
    _header_bytes = 0  # received since the last byte that was not part of a header, trailer or frame
    _requests = _responses = 0  # with a complete header; complete
    arrived_s = 0.0
    """When the last header or body was complete: many requests that arrive at once wait for each other."""

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
        self._target = b""
        self._target_hosts: deque[bytes] = deque()  # of requests that the application has not begun

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
        return self.has_request and self._is_body_complete and not self._is_writing_paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a connection."""
        self.transport = cast(asyncio.Transport, transport)
        self._server.connection_made(self.transport)
        _set_socket_options(self.transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister a connection."""
        self._connections.remove(self)
        self._server.connection_lost(exc)
        del self._server, self._parser  # which refer to this

    def eof_received(self) -> None:
        """Pass on that the client sends no more."""
        self._server.eof_received()

    def data_received(self, data: bytes) -> None:
        """Note what the next bytes belong to, and pass them on."""
        self._has_sent, self._is_idle = True, False
        self._header_bytes += len(data)
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(data)  # uvicorn answers what is invalid
        if not self.transport.is_closing():
            self._server.data_received(data)
        self._connections.update(self)
        if self._header_bytes > MAX_HEADER_BYTES:
            self.refuse(431)

    def on_message_begin(self) -> None:
        """Begin a request, or break off a connection with too many."""
        if self._requests - self._responses >= _MAX_REQUESTS:
            self.abort()
        self._target = b""

    def on_url(self, url: bytes) -> None:
        """Note a part of a request's target."""
        self._target += url

    def on_headers_complete(self) -> None:
        """Note that a header is complete."""
        self._target_hosts.append(_host_of(self._target))
        self._requests += 1
        self._header_bytes = 0
        self._is_body_complete = False
        self.arrived_s = time.perf_counter()

    def on_body(self, _: bytes) -> None:
        """Note bytes of a body."""
        self._header_bytes = 0

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        self._header_bytes = 0
        self._is_body_complete = True
        self.arrived_s = time.perf_counter()

    def begin_request(self) -> bytes:
        """Return the host in the target of the next request, if it has one."""
        return self._target_hosts.popleft()

    def end_response(self) -> None:
        """Continue with the next request, or wait for one."""
        self._responses += 1
        self._is_idle = not self.has_request
        self._connections.update(self)

    def pause_writing(self) -> None:
        """Record that the client reads more slowly than its response is sent."""
        self._is_writing_paused = True
        self._server.pause_writing()
        self._connections.update(self)
        self._connections.update_unread(self)

    def resume_writing(self) -> None:
        """Record that the client has caught up."""
        self._is_writing_paused = False
        self._server.resume_writing()
        self._connections.update(self)
        self._connections.update_unread(self)

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Close the connection; send an error if the client has begun a request, or may not connect (503).

        If it is in the middle of another response, that is broken off.
        """
        if self.has_request:
            self.abort()
            return
        has_begun = self._has_sent and self._is_body_complete  # of a refused body the rest follows
        if (has_begun or status == 503) and not self.transport.is_closing():
            all_headers = {"Connection": "close"} | dict(headers or {})
            response = error_response(HTTPException(status, headers=all_headers))
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
            lines += [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()


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
    """Limit the kernel's buffer of unsent bytes to _MAX_UNSENT_BYTES, and notice peers that have vanished.

    By default the buffer holds megabytes, so a stream would continue for long although its client does not
    read; and a connection without traffic, such as a stream of lines, stays open when its client has lost
    its network.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return  # such as a Unix socket
    options = {
        "TCP_NOTSENT_LOWAT": _MAX_UNSENT_BYTES,
        "TCP_KEEPIDLE": KEEPALIVE_TIMEOUT_S // 2,
        "TCP_KEEPINTVL": KEEPALIVE_TIMEOUT_S // 2 // _PROBES,
        "TCP_KEEPCNT": _PROBES,
    }
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # not every system has each
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
