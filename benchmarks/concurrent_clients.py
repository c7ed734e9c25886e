"""Concurrent clients without pauses, each with its own connection, driven by one thread."""

import json
import random
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.networks import CHARACTERS, COMPLETED

NextBody = Callable[[], dict[str, object]]
"""Returns the body of another request."""


@dataclass
class _TypingClient:
    socket: socket.socket
    document: str
    left: int
    began_s: float = 0.0
    received: bytearray = field(default_factory=bytearray)

    def send(self, path: str, options: dict[str, object], next_body: NextBody | None) -> None:
        """Type a character and send the request, or send the next body."""
        self.document += random.choice(CHARACTERS)
        typed = {"prompt": self.document, "max_characters": COMPLETED}
        body = json.dumps((next_body() if next_body else typed) | options).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.received.clear()
        self.began_s = time.perf_counter()
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def receive(self) -> int | None:
        """Receive data; return the status when the answer is complete."""
        self.received += self.socket.recv(1 << 16)
        head, blank, body = self.received.partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if not blank or len(body) < int(lengths[0]):
            return None
        return int(head[9:12])


def run_clients(
    port: int,
    path: str,
    clients: int,
    *,
    each: int,
    characters: int = 0,
    next_body: NextBody | None = None,
    **options: object,
) -> tuple[float, list[float], int]:
    """Let `clients` type `each` characters into documents; return the total and single seconds, and errors.

    With `next_body` they send what it returns instead. The first answer of every client, for which the
    document has to be read, is not counted.
    """
    selector = selectors.DefaultSelector()
    typing_clients = []
    for _ in range(clients):
        connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        typing_clients.append(
            _TypingClient(connection, "".join(random.choices(CHARACTERS, k=characters)), each)
        )
        selector.register(connection, selectors.EVENT_READ, typing_clients[-1])
    _run(selector, typing_clients, path, options, next_body)
    for client in typing_clients:
        client.left = each
    began = time.perf_counter()
    times, errors = _run(selector, typing_clients, path, options, next_body, again=True)
    took_s = time.perf_counter() - began
    for client in typing_clients:
        client.socket.close()
    selector.close()
    return took_s, times, errors


def _run(
    selector: selectors.BaseSelector,
    typing_clients: list[_TypingClient],
    path: str,
    options: dict[str, object],
    next_body: NextBody | None,
    *,
    again: bool = False,
) -> tuple[list[float], int]:
    times: list[float] = []
    errors = 0
    for client in typing_clients:
        client.send(path, options, next_body)
    waiting = len(typing_clients)
    while waiting:
        for key, _ in selector.select():
            client = key.data
            status = client.receive()
            if status is None:
                continue
            times.append(time.perf_counter() - client.began_s)
            errors += status != 200
            client.left -= 1
            if again and client.left > 0:
                client.send(path, options, next_body)
            else:
                waiting -= 1
    return times, errors
