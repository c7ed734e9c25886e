"""Which connections are closed, and when, without sockets."""

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from nextchar.app.http import connections as module
from nextchar.app.http.connections import (
    BoundedHttpProtocol,
    Connections,
    NoteResponses,
)


class Connection:
    """A connection in a state that a test sets; `log` has what happened to it."""

    def __init__(self, *, needs_header: bool = True, is_served: bool = False, unread: int = 0) -> None:
        self.needs_header, self.is_being_served = needs_header, is_served
        self.since_s = Clock.now_s
        self.log: list[object] = []
        abort = partial(self.log.append, "aborted")
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: unread, abort=abort)

    def refuse(self, status: int) -> None:
        self.log.append(status)


class Clock:
    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now_s)
    monkeypatch.setattr(module.ONCE_PER_MINUTE, "_logged_at", {})
    Clock.now_s = 1000.0
    return Clock  # type: ignore[return-value]


def opened(*made: Any, most: int = 3) -> Connections:
    connections = Connections(max_connections=most, header_timeout_s=10.0, max_unread_bytes=1000)
    for one in made:
        connections.add(one)
    return connections


def test_replaced_are_those_without_a_header_then_the_longest_waiting_and_none_that_is_served(
    clock: Clock,
) -> None:
    served = Connection(needs_header=False, is_served=True)
    idle, later = (Connection(needs_header=False) for _ in range(2))
    slow = Connection()
    later.since_s, slow.since_s = clock.now_s + 1, clock.now_s + 2
    connections = opened(served, idle, later, slow, most=4)
    for replaced in (slow, idle, later):
        connections.add(new := Connection(needs_header=False, is_served=True))  # type: ignore[arg-type]
        assert replaced.log == ["aborted"] and new.log == []
    connections.add(refused := Connection())  # type: ignore[arg-type]
    assert refused.log == [503] and served.log == []
    connections.remove(served)  # type: ignore[arg-type]
    connections.add(last := Connection())  # type: ignore[arg-type]
    assert last.log == []


def test_responses_that_are_not_read_may_take_as_much_as_the_limit(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (Connection(unread=size) for size in (400, 600, 1))
    for later_s, one in enumerate((first, second, third)):
        one.since_s += later_s
    connections = opened()
    all_of_them: Any = [third, second, first]
    connections.limit_unread(all_of_them[1:])
    assert first.log == second.log == [] and not caplog.records, "1000 together"
    connections.limit_unread(all_of_them)
    assert first.log == ["aborted"] and second.log == third.log == []
    assert "more than 1000 bytes" in caplog.text and "NEXTCHAR_BODY_MEMORY_BYTES" in caplog.text
    alone: Any = [Connection(), Connection(unread=5000)]
    connections.limit_unread(alone)
    assert alone[0].log == alone[1].log == [], "one alone may have more"


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


def protocol(transport: Transport, connections: Connections | None = None, app: Any = _never) -> Any:
    """The server's side of a new connection, in a running event loop."""
    services = SimpleNamespace(connections=connections or opened())
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
