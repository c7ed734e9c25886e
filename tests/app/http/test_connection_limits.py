"""What a connection of the server does with requests that follow each other, and when it is refused."""

import asyncio
import gc
import json
import socket
import weakref
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from nextchar.app.http.connections import BoundedHttpProtocol, Connections, NoteResponses


class Transport(asyncio.Transport):
    """A transport without a peer; `connection` is its socket."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        super().__init__({"socket": connection})
        self.written = b""
        self.log: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return bool(self.log)

    def close(self) -> None:
        self.log.append("closed")

    def abort(self) -> None:
        self.log.append("aborted")

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    @property
    def error(self) -> tuple[int, str] | None:
        """The status and the code of the error that was sent."""
        if not self.written:
            return None
        header, _, body = self.written.partition(b"\r\n\r\n")
        return int(header.split()[1]), json.loads(body)["error"]["code"]


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def protocol(transport: Transport, app: Any = _never) -> Any:
    """The server's side of a new connection, in a running event loop."""
    connections = Connections(max_connections=3, header_timeout_s=10.0, max_unread_bytes=1000)
    services = SimpleNamespace(connections=connections)
    config = uvicorn.Config(NoteResponses(app), log_config=None, lifespan="off")
    made: Any = BoundedHttpProtocol(config, state := ServerState(), {"services": services})
    made.connection_made(transport)
    made.tasks = state.tasks
    return made


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class Gate:
    """An application that answers when it may, and counts its requests."""

    def __init__(self) -> None:
        self.proceed, self.requests = asyncio.Event(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        await self.proceed.wait()
        await _answer_at_once(scope, receive, send)


def test_one_request_waits_for_the_response_before_it_and_a_third_ends_the_connection() -> None:
    async def run(*sent: bytes) -> tuple[int, int, list[str]]:
        server = protocol(transport := Transport(), app=(gate := Gate()))
        for data in sent:
            server.data_received(data)
        assert gate.requests == 0
        gate.proceed.set()
        while server.tasks:
            await asyncio.gather(*server.tasks)
        return gate.requests, transport.written.count(b" 204 "), transport.log

    for post in (CHUNKED + b"0\r\n\r\n", CHUNKED + b"4\r\nabcd\r\n0\r\n\r\n"):
        assert asyncio.run(run(GET)) == (1, 1, [])
        assert asyncio.run(run(GET + post)) == asyncio.run(run(GET, post)) == (2, 2, [])
        assert "aborted" in asyncio.run(run(GET, post, post))[2]
        assert asyncio.run(run(GET + post * 1000))[0] == 0, "none of what is sent at once is begun"


def test_a_lost_connection_is_freed_at_once() -> None:
    async def run() -> None:
        server = protocol(transport := Transport(), app=(gate := Gate()))
        server.data_received(GET)
        await asyncio.sleep(0)
        transport.abort()
        server.connection_lost(ConnectionResetError())
        gate.proceed.set()
        await asyncio.gather(*server.tasks)
        assert gate.requests == 1
        freed = weakref.ref(server)
        del server
        assert freed() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


async def _answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


def test_clients_that_have_begun_a_request_or_may_not_connect_get_the_reason() -> None:
    async def refused(sent: bytes, status: int, app: Any = _never) -> Transport:
        server = protocol(transport := Transport(), app=app)
        if sent:
            server.data_received(sent)
        await asyncio.gather(*(server.tasks if app is _answer_at_once else ()))
        transport.written = b""
        server.refuse(status)
        return transport

    async def run() -> None:
        for sent, status, error in (
            (b"", 408, None),
            (b"GET", 408, (408, "request_timeout")),
            (b"", 503, (503, "overloaded")),
        ):
            transport = await refused(sent, status)
            assert (transport.error, transport.log) == (error, ["closed"])
        transport = await refused(b"", 503)
        assert b"connection: close\r\n" in transport.written and b"retry-after: 1\r\n" in transport.written
        transport = await refused(GET, 408)
        assert (transport.written, transport.log) == (b"", ["aborted"]), "in the middle of its response"
        transport = await refused(GET + b"GET", 408, _answer_at_once)
        assert transport.error == (408, "request_timeout")
        transport = await refused(POST, 408, _answer_at_once)
        assert (transport.written, transport.log) == (b"", ["closed"]), "the rest of a refused body"
        server = protocol(transport := Transport())
        server.data_received(b"GET")
        transport.close()
        server.refuse(408)
        assert transport.written == b""

    asyncio.run(run())
