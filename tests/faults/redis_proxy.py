"""A TCP proxy in front of Redis' socket: it slows connections, refuses them, hangs, or breaks answers off."""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Literal, Self

Mode = Literal["pass", "slow", "refuse", "hang", "cut"]

_CHUNK_BYTES = 1 << 16
_CUT_BYTES = 7  # of each answer, then the connection is reset


class RedisProxy:
    """The proxy, as a context manager, on a port that stays the same; `mode` can be changed at any time.

    The modes: `pass`; `slow` delays every chunk by `delay_s`; `refuse` resets all connections; `hang` keeps
    them and passes nothing on; `cut` resets each in the middle of its next answer.
    """

    def __init__(self, upstream: Path, *, delay_s: float = 0.3) -> None:
        self._upstream, self._delay_s = upstream, delay_s
        self._mode: Mode = "pass"
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._is_stopping = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping = True
        self._listener.close()
        self.set_mode("refuse")

    def set_mode(self, mode: Mode) -> None:
        """Treat all connections so from now on."""
        with self._changed:
            self._mode = mode
            self._changed.notify_all()
            if mode == "refuse":
                for connection in self._connections:
                    _shut(connection)

    def _accept(self) -> None:
        while not self._is_stopping:
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            if self._mode == "refuse":
                return
            try:
                server.connect(str(self._upstream))
            except OSError:
                return
            with self._changed:
                self._connections |= {client, server}
            answers = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            answers.start()
            self._forward(client, server)
            answers.join()
            with self._changed:
                self._connections -= {client, server}

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        is_answer = source.family == socket.AF_UNIX
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                with self._changed:
                    self._changed.wait_for(lambda: self._mode != "hang")
                    if self._mode == "slow":
                        self._changed.wait_for(lambda: self._mode != "slow", self._delay_s)
                    mode = self._mode
                if mode == "refuse":
                    break
                if mode == "cut" and is_answer:
                    target.sendall(data[:_CUT_BYTES])
                    break
                target.sendall(data)
        _shut(source)
        _shut(target)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
