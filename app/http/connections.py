"""Limits on connections: their number, the time until a request's header is complete, and unread responses.

A connection whose header is not complete by a deadline is closed. At the maximum number of connections a new
one replaces the one that has made the server wait longest: first those without a complete header, then those
that are idle, send a body or do not read their response. A connection whose request is being handled is never
replaced. Bodies have deadlines of their own, in `nextchar.app.http.incoming_body`.

A connection serves one request at a time. One more may wait, since a client can know the end of a response
before the application has sent its last, empty piece. A client that sends a third one is pipelining: it gets
the responses to the first two, and the connection is closed.

A client has UNREAD_S seconds for each MIN_READ_BYTES of its response. Responses that are not read take
memory: if all together exceed a limit, the connection without progress for the longest time is closed.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import httptools
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

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
    _is_pipelining = False  # what is received is dropped
    _header_bytes = 0  # received since the last byte that was not part of a header, trailer or frame

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
        _set_socket_options(transport)
        self._connections = self.app_state["services"].connections
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister a connection."""
        self._is_open = False
        self._connections.remove(self)
        super().connection_lost(exc)
        if self.pipeline:  # never served; it and this protocol refer to each other
            self.pipeline.clear()
            self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._has_sent = True
        self._header_bytes += len(data)
        if not self._is_pipelining:
            super().data_received(data)
        self._connections.update(self)
        if self._header_bytes > MAX_HEADER_BYTES:
            self.refuse(431)

    def on_message_begin(self) -> None:
        """Begin a request, or find that too many are sent at once."""
        if self.pipeline:
            self._is_pipelining = True
            self.cycle.keep_alive = False  # the one that waits is the last
            self.url, self.headers = b"", []
        else:
            super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request."""
        if self._drops_input:
            return
        self._header_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self.refuse(431)
            return
        if not self.url.startswith(b"/"):
            self._take_host_from_target()
        self._note_arrival()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on the next bytes of a body."""
        self._header_bytes = 0
        if not self._drops_input:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a body."""
        self._header_bytes = 0
        if not self._drops_input:
            self._note_arrival()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request, or wait for one."""
        super().on_response_complete()
        if self._is_open:  # it may have been lost during an earlier one of several requests
            self._connections.update(self)

    def pause_writing(self) -> None:
        """Record that the client reads more slowly than its response is sent."""
        super().pause_writing()
        self._connections.update(self)
        self._connections.update_unread(self)

    def resume_writing(self) -> None:
        """Record that the client has caught up."""
        super().resume_writing()
        self._connections.update(self)
        self._connections.update_unread(self)

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Close the connection; send an error if the client has begun a request, or may not connect (503).

        If it is in the middle of another response, that is broken off.
        """
        request = self._request
        if request is not None and not request.response_complete:
            self.abort()
            return
        has_begun = self._has_sent and not self._sends_refused_body
        if (has_begun or status == 503) and not self.transport.is_closing():
            all_headers = {"Connection": "close"} | dict(headers or {})
            response = error_response(HTTPException(status, headers=all_headers))
            lines = [STATUS_LINE[status]]
            lines += [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def abort(self) -> None:
        """Close the connection at once; what its request still sends is dropped."""
        if self._request is not None:
            self._request.disconnected = True  # the superclass says so an iteration of the loop later
        self.transport.abort()

    def _note_arrival(self) -> None:
        """Set the request's `state.arrived_s`: many requests that arrive at once wait for each other."""
        self.scope["state"]["arrived_s"] = time.perf_counter()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: an upgrade request may be ignored, and anyone can send many of them."""

    @property
    def _drops_input(self) -> bool:
        return self._is_pipelining or self.transport.is_closing()

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
