"""The API as in production, in its own process, and a client with minimal overhead.

>>> with running_api([saved]) as api, api.client() as client:  # doctest: +SKIP
...     client.post("/v1/models/random-2x256/complete", {"prompt": "to be", "max_characters": 20})
"""

import contextlib
import functools
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nextchar.launcher.processes import start_bound, stop
from nextchar.launcher.stack import free_port
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.kernels.instruction_sets import VARIABLE
from nextchar.models.saved_model import SavedModel
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs

ROOT = Path(__file__).parents[1]
START_S = 60


class Client:
    """A keep-alive connection with a minimal HTTP client for the answers of our server.

    It connects when it first sends, for the server closes connections that send nothing for some seconds.
    """

    def __init__(self, port: int, *, timeout_s: float = 120) -> None:
        self._port, self._timeout_s = port, timeout_s
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a body and return that of the answer. Raises RuntimeError for any status except 200."""
        return self.ask("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> bytes:
        """Return the body at a path, as bytes."""
        return self._exchange("GET", path, b"")

    def ask(self, method: str, path: str, content: bytes) -> Any:
        """Send bytes, return the JSON of the answer."""
        return json.loads(self._exchange(method, path, content))

    def stream(self, method: str, path: str, content: bytes) -> None:
        """Send bytes and read a chunked answer to its end."""
        self.send(method, path, content)
        while not self._received.endswith(b"0\r\n\r\n"):
            self._receive()
        if not self._received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._received[:1000].decode())
        self._received = b""

    def send(self, method: str, path: str, content: bytes) -> None:
        """Send a request without waiting for the answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def close(self) -> None:
        """Close the connection."""
        if "_socket" in vars(self):
            self._socket.close()

    @functools.cached_property
    def _socket(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=self._timeout_s)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def _exchange(self, method: str, path: str, content: bytes) -> bytes:
        self.send(method, path, content)
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(rest) < length:
            self._received = b""
            self._receive()
            rest += self._received
        self._received = rest[length:]
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"{head.decode().splitlines()[0]}: {rest[:1000].decode()}")
        return rest[:length]

    def _receive(self) -> None:
        more = self._socket.recv(1 << 20)
        if not more:
            raise RuntimeError("the server hung up")
        self._received += more


@dataclass(frozen=True)
class Api:
    """A running API process."""

    port: int
    pid: int
    first_answer_s: float  # from the start of the process to its first completion
    environment: Mapping[str, str]  # of the process; a worker with the same uses the same Redis and store

    def client(self) -> Client:
        """Return a new connection."""
        return Client(self.port)

    def resident_bytes(self) -> int:
        """Return the resident memory of the process. Linux only; else 0."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return 0
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]

    def processor_s(self) -> float:
        """Return the processor time that the process has used."""
        return self.metrics()["process_cpu_seconds_total"]

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        with self.client() as client:
            lines = client.get("/metrics").decode().splitlines()
        return {key: float(v) for key, v in (s.rsplit(" ", 1) for s in lines if not s.startswith("#"))}


@contextlib.contextmanager
def running_api(saved: Sequence[SavedModel], **settings: object) -> Iterator[Api]:
    """Serve models from an empty folder, with NEXTCHAR_ settings given by their lower-case names.

    Of the settings in the environment only NEXTCHAR_ISA counts.
    """
    temporary = tempfile.TemporaryDirectory(
        ignore_cleanup_errors=True
    )  # kernels may still be compiled into it
    with temporary as folder, EmbeddedValkey(Path(folder)) as valkey:
        registry = Models(open_blobs((Path(folder) / "store").as_uri()))
        for model in saved:
            registry.publish(model.card, {name: model.file(name) for name in model.card.files})
        port = free_port("127.0.0.1")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_") or k == VARIABLE}
        given = {"data_dir": folder, "redis_url": valkey.url, "port": port} | settings
        environment |= {f"NEXTCHAR_{name.upper()}": str(value) for name, value in given.items()}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        began = time.perf_counter()
        log = Path(folder) / "api.log"
        process = start_bound([sys.executable, "-m", "nextchar.app.main"], log=log, environment=environment)
        try:
            _first_answer(port, saved[0].card.name, process, log)
            yield Api(port, process.pid, time.perf_counter() - began, environment)
        finally:
            stop(process, grace_s=10)


def _first_answer(port: int, model: str, process: Any, log: Path) -> None:
    deadline = time.perf_counter() + START_S
    while time.perf_counter() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), Client(port) as client:
            client.post(f"/v1/models/{model}/complete", {"prompt": "a", "max_characters": 1})
            return
        time.sleep(0.005)
    raise RuntimeError(f"the API does not answer; its log:\n{log.read_text()[-2000:]}")
