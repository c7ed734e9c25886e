"""Limits on connections: their number, and the time until a request's header is complete.

A connection whose header is not complete by a deadline is closed. At the maximum number of connections a new
one replaces the one that has made the server wait longest: first those without a complete header, then those
that are idle, send a body or do not read their response. A connection whose request is being handled is never
replaced. Bodies have deadlines of their own, in `app.http.incoming_body`.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import httptools
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.http.errors import error_response

log = logging.getLogger("nextchar.api")

MAX_HEADER_BYTES = 64 << 10

_MAX_UNSENT_BYTES = 16 << 10
_MAX_OPEN_FILES = (65_536, 10_240)  # macOS reports no limit, but allows only the second
_MAX_DEFAULT_CONNECTIONS = 8192
_SWEEP_S = 1.0
_WARN_EVERY_S = 60.0
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
    """

    def __init__(self, *, max_connections: int, header_timeout_s: float) -> None:
        self._max_connections = max_connections or default_max_connections()
        self._header_timeout_s = header_timeout_s
        self._open = 0
        # Oldest first; the value is since when.
        self._without_header: OrderedDict[BoundedHttpProtocol, float] = OrderedDict()
        # Idle, sending a body, or not reading their response; least recently active first.
        self._waiting: OrderedDict[BoundedHttpProtocol, None] = OrderedDict()
        self._warned_at = -_WARN_EVERY_S

    async def watch(self) -> None:
        """Close connections whose header is overdue, until cancelled."""
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._header_timeout_s / 2))
            try:
                self._close_overdue()
            except Exception:  # this loop must continue, or slow clients would never be disconnected
                log.exception("closing connections whose header is overdue")

    def add(self, connection: "BoundedHttpProtocol") -> None:
        """Count a new connection; replace another by it, or refuse it if all others are being served."""
        self._open += 1
        if self._open > self._max_connections:
            self._warn()
            if not self._evict_oldest():
                connection.refuse(503, {"Retry-After": "1"})
                return
        self._without_header[connection] = time.monotonic()

    def remove(self, connection: "BoundedHttpProtocol") -> None:
        """Forget a connection that is closed."""
        self._open -= 1
        self._without_header.pop(connection, None)
        self._waiting.pop(connection, None)

    def update(self, connection: "BoundedHttpProtocol") -> None:
        """Record a connection's state. Call this whenever it may have changed."""
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
                connection.transport.abort()
                return True
        return False

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            log.warning(
                "%d connections are open, the maximum for this process; the longest waiting ones are closed."
                " Set NEXTCHAR_MAX_CONNECTIONS to raise the limit",
                self._max_connections,
            )


class InvalidRequestFilter(logging.Filter):
    """Drops uvicorn's warning about an invalid request, except one a minute: anyone can cause thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._warned_at = -_WARN_EVERY_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if record.msg != _INVALID_REQUEST:
            return True
        now = time.monotonic()
        is_due = now - self._warned_at >= _WARN_EVERY_S
        if is_due:
            self._warned_at = now
        return is_due


INVALID_REQUEST_FILTER = InvalidRequestFilter()


class BoundedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol, under the limits of the application's `Connections`."""

    _connections: Connections
    _is_open = True
    _has_sent = False
    _header_bytes = 0

    @property
    def needs_header(self) -> bool:
        """Whether the next bytes belong to a header, or to the rest of a refused body."""
        request = self._request
        has_request = request is not None and not request.response_complete
        return not (has_request or self.timeout_keep_alive_task or self.transport.is_closing())

    @property
    def is_being_served(self) -> bool:
        """Whether a complete request is being handled and the client reads the response."""
        request = self._request
        if request is None or request.response_complete or request.more_body:
            return False
        return not self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register a connection."""
        super().connection_made(transport)
        _bound_unsent(transport)
        self._connections = self.app_state["services"].connections
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister a connection."""
        self._is_open = False
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._has_sent = True
        super().data_received(data)
        self._connections.update(self)
        if not self.needs_header:
            self._header_bytes = 0
        elif not self._sends_refused_body:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.refuse(431)

    def on_headers_complete(self) -> None:
        """Start the request."""
        if not self.url.startswith(b"/"):
            self._take_host_from_target()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request, or wait for one."""
        super().on_response_complete()
        if self._is_open:  # it may have been lost during an earlier one of several requests
            self._connections.update(self)

    def pause_writing(self) -> None:
        """Record that the client reads more slowly than its response is sent."""
        super().pause_writing()
        self._connections.update(self)

    def resume_writing(self) -> None:
        """Record that the client has caught up."""
        super().resume_writing()
        self._connections.update(self)

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Close the connection; send an error if the client has begun a request, or may not connect (503)."""
        has_begun = self._has_sent and not self._sends_refused_body
        if (has_begun or status == 503) and not self.transport.is_closing():
            all_headers = {"Connection": "close"} | dict(headers or {})
            response = error_response(HTTPException(status, headers=all_headers))
            lines = [STATUS_LINE[status]]
            lines += [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: an upgrade request may be ignored, and anyone can send many of them."""

    @property
    def _sends_refused_body(self) -> bool:
        request = self._request
        return request is not None and request.response_complete and request.more_body

    @property
    def _request(self) -> RequestResponseCycle | None:
        return cast(RequestResponseCycle | None, self.cycle)  # declared as never None

    def _take_host_from_target(self) -> None:
        """Replace the Host header by the host of an absolute-form target (RFC 9112, 3.2.2)."""
        with contextlib.suppress(httptools.HttpParserInvalidURLError):  # the superclass responds with 400
            target = httptools.parse_url(self.url)
            if target.host:
                host = b"[%b]" % target.host if b":" in target.host else target.host
                host += b":%d" % target.port if target.port else b""
                self.headers[:] = [(b"host", host), *(h for h in self.headers if h[0] != b"host")]


def _bound_unsent(transport: asyncio.Transport) -> None:
    """Limit the kernel's buffer of unsent bytes to _MAX_UNSENT_BYTES.

    By default it holds megabytes, so a stream would continue for long although its client does not read.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):  # such as a Unix socket
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
