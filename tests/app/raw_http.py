"""Requests as bytes over a socket, for what no HTTP client would send."""

import contextlib
import re
import socket
from collections.abc import Iterator

import httpx

from tests.app.service import Service


@contextlib.contextmanager
def connected(service: Service, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection to the API, over which these bytes have gone."""
    url = service.http.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as client:
        client.sendall(sent)
        yield client


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


def read_answer(client: socket.socket) -> httpx.Response:
    """The next answer: complete, or of a stream, which has no length, what there is with the header."""
    received = b""
    while not is_answer(received):
        piece = client.recv(65536)
        assert piece, f"the connection was closed after {received!r}"
        received += piece
    return answer_in(received)


def is_answer(received: bytes) -> bool:
    """Whether a header and its body are complete."""
    header, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", header.lower())
    return bool(end) and (length is None or len(body) >= int(length[1]))


def answer_in(received: bytes) -> httpx.Response:
    header, _, body = received.partition(b"\r\n\r\n")
    first, *lines = header.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)
