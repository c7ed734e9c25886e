"""An HTTP proxy in front of an S3 server: it throttles, stalls, breaks and changes what passes through it."""

import contextlib
import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Self
from urllib.parse import urlsplit

from tests.http_server import QuietHTTPServer

_CHUNK_BYTES = 1 << 16
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Args:
        status: answer with this status, and the error code `code`, instead of forwarding the request.
        delay_s: wait for so many seconds before the request is forwarded.
        lost_answer: forward the request and close the connection without the answer.
        cut_after: close the connection after so many bytes of the answer's body.
        before_cut: called before the connection is closed.
        stall_after: send nothing after so many bytes of the answer's body until the proxy stops.
        without: remove this header from the request.
    """

    status: int | None = None
    code: str = "SlowDown"
    delay_s: float = 0.0
    lost_answer: bool = False
    cut_after: int | None = None
    before_cut: Callable[[], object] | None = None
    stall_after: int | None = None
    without: str | None = None


@dataclass(frozen=True)
class Request:
    """A request that has passed through the proxy."""

    method: str
    path: str
    headers: dict[str, str] = field(hash=False)


class FaultProxy:
    """The proxy, as a context manager; `url` is its address.

    Each request takes the first of `faults` if `is_affected` is true for it, and else `always`.
    """

    def __init__(self, upstream: str) -> None:
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.always = Fault()
        self.is_affected: Callable[[Request], bool] = lambda _: True
        self.upstream = urlsplit(upstream).netloc
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = QuietHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def fault_for(self, request: Request) -> Fault:
        """Record a request and return what happens to it."""
        with self._lock:
            self.requests.append(request)
            return self.faults.popleft() if self.faults and self.is_affected(request) else self.always


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle_one_request(self) -> None:
        """Handle one request; either side may close its connection in the middle."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def forward(self) -> None:
        """Pass a request on, and its answer back, with their fault."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_for(Request(self.command, self.path, dict(self.headers.items())))
        if fault.status:
            content = b"" if self.command == "HEAD" else f"<Error><Code>{fault.code}</Code></Error>".encode()
            self._send_head(fault.status, [("Content-Length", str(len(content)))])
            self.wfile.write(content)
            return
        self.proxy.stopping.wait(fault.delay_s)
        headers = {name: value for name, value in self.headers.items() if name.lower() != fault.without}
        with contextlib.closing(http.client.HTTPConnection(self.proxy.upstream, timeout=60)) as connection:
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            if fault.lost_answer:
                answer.read()
                self._reset()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            if self.command != "HEAD" and answer.getheader("Content-Length") is None:
                kept.append(("Connection", "close"))  # which ends the body
                self.close_connection = True
            self._send_head(answer.status, kept)
            self._send_body(answer, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

    def _send_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        passed = 0
        limit = fault.cut_after if fault.stall_after is None else fault.stall_after
        while chunk := answer.read(_CHUNK_BYTES):
            if limit is not None and passed + len(chunk) > limit:
                self.wfile.write(chunk[: limit - passed])
                if fault.stall_after is not None:
                    self.proxy.stopping.wait()
                if fault.before_cut is not None:
                    fault.before_cut()
                self._reset()
            self.wfile.write(chunk)
            passed += len(chunk)

    def _reset(self) -> None:
        """Close the connection so that the client gets a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionResetError
