"""Requests as bytes over a socket, for what no HTTP client would send."""

import contextlib
import socket
from collections.abc import Iterator

import httpx

from tests.app.service import Service


@contextlib.contextmanager
def connected(service: Service, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection to the API, over which these bytes have gone."""
    url = service.http.base_url
    with socket.create_connection((url.host, url.port), timeout=20) as client:
        client.sendall(sent)
        yield client


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


def answer_in(received: bytes) -> httpx.Response:
    header, _, body = received.partition(b"\r\n\r\n")
    first, *lines = header.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)
