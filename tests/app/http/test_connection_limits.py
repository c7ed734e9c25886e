"""Which connections are closed, and when, without sockets."""

import asyncio
import gc
import json
import logging
import resource
import socket
import weakref
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from nextchar.app.http import connections as module
from nextchar.app.http.connections import (
    MIN_READ_BYTES,
    UNREAD_S,
    BoundedHttpProtocol,
    Connections,
    InvalidRequestFilter,
    NoteResponses,
    default_max_connections,
    raise_open_files_limit,
)


class Connection:
    """A connection in a state that a test sets; `log` has what happened to it."""

    def __init__(self) -> None:
        self.needs_header, self.is_being_served = True, False
        self.log: list[object] = []
        self.unread_bytes = self.asked = 0
        self.transport = SimpleNamespace(get_write_buffer_size=self._buffer_size)

    def abort(self) -> None:
        self.log.append("aborted")

    def _buffer_size(self) -> int:
        self.asked += 1
        return self.unread_bytes

    def refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.log.append((status, headers))


class Clock:
    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now_s)
    Clock.now_s = 1000.0
    return Clock  # type: ignore[return-value]


def opened(count: int, *, most: int = 3, **options: Any) -> tuple[Connections, list[Any]]:
    limits = {"header_timeout_s": 10.0, "max_unread_bytes": 1000} | options
    connections = Connections(max_connections=most, **limits)
    made: list[Any] = [Connection() for _ in range(count)]
    for one in made:
        connections.add(one)
    return connections, made


def set_state(connections: Connections, one: Any, *, needs_header: bool, is_served: bool) -> None:
    one.needs_header, one.is_being_served = needs_header, is_served
    connections.update(one)


def swept(connections: Connections, *, times: int = 1) -> list[float]:
    """Run the sweep so many times; return how long it slept before each."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if len(slept) == times:
            raise asyncio.CancelledError
        slept.append(seconds)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(asyncio.CancelledError):
        patched.setattr(module.asyncio, "sleep", sleep)
        asyncio.run(connections.watch())
    return slept


def test_then_the_one_that_has_waited_longest_and_never_one_that_is_served(clock: Clock) -> None:
    connections, made = opened(4, most=4)
    first, second, third, fourth = made
    for one in made:
        set_state(connections, one, needs_header=False, is_served=one is fourth)
    connections.update(first)  # is active again
    for replaced in (second, third, first):
        connections.add(new := Connection())  # type: ignore[arg-type]
        assert replaced.log == ["aborted"] and new.log == []
        connections.remove(replaced)
        set_state(connections, new, needs_header=False, is_served=True)
    connections.add(refused := Connection())  # type: ignore[arg-type]
    assert refused.log == [(503, {"Retry-After": "1"})] and fourth.log == []
    connections.remove(refused)  # type: ignore[arg-type]
    connections.remove(fourth)
    connections.add(last := Connection())  # type: ignore[arg-type]
    assert last.log == []


def test_a_connection_that_needs_a_header_again_is_replaced_before_those_that_wait(clock: Clock) -> None:
    connections, (first, second, third) = opened(3)
    for one in (first, second, third):
        set_state(connections, one, needs_header=False, is_served=False)
    set_state(connections, third, needs_header=True, is_served=False)
    connections.add(Connection())  # type: ignore[arg-type]
    assert third.log == ["aborted"] and first.log == second.log == []


def test_a_header_must_be_complete_within_its_time(clock: Clock) -> None:
    connections, (first, second) = opened(2)
    clock.now_s += 4
    connections.add(third := Connection())  # type: ignore[arg-type]
    set_state(connections, second, needs_header=False, is_served=True)
    connections.update(first)  # more bytes of its header give it no more time
    clock.now_s += 5.5
    swept(connections)
    assert first.log == []
    clock.now_s += 0.5
    swept(connections)
    assert first.log == [(408, None)] and second.log == third.log == []
    swept(connections)
    assert len(first.log) == 1
    connections.add(Connection())  # type: ignore[arg-type]
    assert third.log == ["aborted"], "it has no header, either"
    connections.add(Connection())  # type: ignore[arg-type]
    clock.now_s += 10
    swept(connections)
    assert second.log == []


@pytest.mark.parametrize(("timeout_s", "between_s"), [(0.3, 0.15), (1.9, 0.95), (2.0, 1.0), (30.0, 1.0)])
def test_overdue_headers_are_looked_for_twice_in_their_time_and_each_second(
    timeout_s: float, between_s: float
) -> None:
    connections, _ = opened(0, header_timeout_s=timeout_s)
    assert swept(connections, times=3) == [pytest.approx(between_s)] * 3


def test_a_connection_that_cannot_be_closed_does_not_end_the_sweep(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections, (first, second) = opened(2)
    monkeypatch.setattr(first, "refuse", lambda *_: 1 / 0)
    clock.now_s += 11
    swept(connections, times=2)
    assert second.log == [(408, None)]
    assert [record.exc_info is not None for record in caplog.records] == [True]


def set_unread(connections: Connections, one: Any, size: int) -> None:
    one.unread_bytes = size
    connections.update_unread(one)


def test_responses_that_are_not_read_may_take_as_much_as_the_limit(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connections, (first, second, third) = opened(3, max_unread_bytes=1000)
    for one in (first, second, third):
        set_unread(connections, one, 0)
    set_unread(connections, first, 100)
    set_unread(connections, second, 600)
    set_unread(connections, first, 400)  # 1000 together
    assert first.log == second.log == [] and not caplog.records
    set_unread(connections, third, 1)
    assert first.log == ["aborted"] and second.log == third.log == []
    assert "more than 1000 bytes" in caplog.text and "NEXTCHAR_BODY_MEMORY_BYTES" in caplog.text
    set_unread(connections, third, 400)
    assert second.log == []
    set_unread(connections, third, 401)
    assert second.log == ["aborted"]
    set_unread(connections, third, 5000)
    assert third.log == [], "one alone may have more"
    connections.remove(third)
    set_unread(connections, first, 999)
    set_unread(connections, second, 1)
    assert len(first.log) == len(second.log) == 1, "nothing is counted of what was read or closed"


def test_a_client_has_five_minutes_for_each_piece_of_its_response(clock: Clock) -> None:
    connections, (reads, reads_less, reads_nothing) = opened(3, max_unread_bytes=1 << 30)
    size = 10 * MIN_READ_BYTES
    for one in (reads, reads_less, reads_nothing):
        set_state(connections, one, needs_header=False, is_served=True)
        set_unread(connections, one, size)
    clock.now_s += UNREAD_S - 0.5
    set_unread(connections, reads, size - MIN_READ_BYTES)
    set_unread(connections, reads_less, size - MIN_READ_BYTES + 1)
    set_unread(connections, reads_nothing, size + 1)  # more was written
    swept(connections, times=5)
    assert reads.log == reads_less.log == reads_nothing.log == []
    clock.now_s += 0.5
    swept(connections, times=5)
    assert reads.log == [] and reads_less.log == reads_nothing.log == ["aborted"]
    clock.now_s += UNREAD_S - 0.5
    swept(connections, times=5)
    assert reads.log == ["aborted"]


@pytest.mark.parametrize(("timeout_s", "pauses"), [(30.0, 5), (1.0, 10)])
def test_unread_responses_are_looked_for_every_five_seconds(
    clock: Clock, timeout_s: float, pauses: int
) -> None:
    for times in (pauses - 1, pauses, 2 * pauses - 1, 2 * pauses):
        connections, (one,) = opened(1, header_timeout_s=timeout_s)
        swept(connections, times=times)
        assert one.asked == times // pauses


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
    services = SimpleNamespace(connections=connections or opened(0)[0])
    config = uvicorn.Config(NoteResponses(app), log_config=None, lifespan="off")
    made: Any = BoundedHttpProtocol(config, state := ServerState(), {"services": services})
    made.connection_made(transport)
    made.tasks = state.tasks
    return made


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_connection_that_was_lost_during_the_first_of_two_requests_is_forgotten(clock: Clock) -> None:
    async def run() -> None:
        proceed = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await proceed.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        connections, _ = opened(0, most=1)
        server = protocol(Transport(), connections, app)
        server.data_received(GET + GET)
        server.connection_lost(None)
        proceed.set()
        await asyncio.gather(*server.tasks)
        connections.add(served := Connection())  # type: ignore[arg-type]
        set_state(connections, served, needs_header=False, is_served=True)
        connections.add(refused := Connection())  # type: ignore[arg-type]
        assert served.log == [] and refused.log == [(503, {"Retry-After": "1"})]

    asyncio.run(run())


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


def test_what_a_connection_waits_for_follows_from_what_was_sent() -> None:
    async def run() -> None:
        server = protocol(Transport())

        def state() -> tuple[bool, bool]:
            return server.needs_header, server.is_being_served

        needs_header, waits, is_served = (True, False), (False, False), (False, True)
        assert state() == needs_header
        server.data_received(POST[:20])
        assert state() == needs_header
        server.data_received(POST[20:] + b"ab")
        assert state() == waits, "for the rest of its body"
        server.data_received(b"cd")
        assert state() == is_served
        server.pause_writing()
        assert state() == waits, "for the client to read"
        server.resume_writing()
        assert state() == is_served
        server = protocol(Transport(), app=_answer_at_once)
        server.data_received(GET)
        await asyncio.gather(*server.tasks)
        assert state() == waits, "it is idle"
        server.data_received(GET[:20])
        assert state() == needs_header
        server.transport.close()
        assert state() == waits, "for its end"

    asyncio.run(run())


def test_clients_that_have_begun_a_request_or_may_not_connect_get_the_reason() -> None:
    async def refused(sent: bytes, status: int, app: Any = _never, **headers: str) -> Transport:
        server = protocol(transport := Transport(), app=app)
        if sent:
            server.data_received(sent)
        await asyncio.gather(*(server.tasks if app is _answer_at_once else ()))
        transport.written = b""
        server.refuse(status, headers or None)
        return transport

    async def run() -> None:
        for sent, status, error in (
            (b"", 408, None),
            (b"GET", 408, (408, "request_timeout")),
            (b"", 503, (503, "overloaded")),
        ):
            transport = await refused(sent, status)
            assert (transport.error, transport.log) == (error, ["closed"])
        transport = await refused(b"", 503, **{"Retry-After": "1"})
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


def test_a_unix_socket_has_no_options_of_tcp() -> None:
    async def run(connection: socket.socket) -> None:
        protocol(Transport(connection))

    ours, peer = socket.socketpair(socket.AF_UNIX)
    with ours, peer:
        asyncio.run(run(ours))
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_maximum_is_logged_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    connections, _ = opened(3)
    for later_s, count in ((0.0, 1), (59.5, 1), (0.5, 2), (59.5, 2)):
        clock.now_s += later_s
        connections.add(Connection())  # type: ignore[arg-type]
        assert len(caplog.records) == count
    assert "3 connections are open" in caplog.text and "NEXTCHAR_MAX_CONNECTIONS" in caplog.text


def test_an_invalid_request_is_logged_once_a_minute(clock: Clock) -> None:
    quiet = InvalidRequestFilter()

    def is_logged(message: str) -> bool:
        return quiet.filter(logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, message, (), None))

    for later_s, expected in ((0.0, True), (0.0, False), (59.5, False), (0.5, True), (59.5, False)):
        clock.now_s += later_s
        assert is_logged("Invalid HTTP request received.") is expected
        assert is_logged("another message")


@pytest.mark.parametrize(
    ("soft", "most"),
    [(resource.RLIM_INFINITY, 8192), (1 << 20, 8192), (24_576, 8192), (24_575, 8191), (3002, 1000)],
)
def test_a_third_of_the_open_files_may_be_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, most: int
) -> None:
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert default_max_connections() == most
    monkeypatch.setattr(module, "_MAX_DEFAULT_CONNECTIONS", 1)
    connections, (first, _) = opened(2, most=0)
    assert first.log == ["aborted"] and connections is not None


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "limits"),
    [
        (1024, 4096, 1 << 30, [(4096, 4096)]),
        (1024, 1 << 20, 1 << 30, [(65_536, 1 << 20)]),
        (1024, resource.RLIM_INFINITY, 1 << 30, [(65_536, resource.RLIM_INFINITY)]),
        (256, resource.RLIM_INFINITY, 10_240, [(10_240, resource.RLIM_INFINITY)]),
        (20_000, resource.RLIM_INFINITY, 10_240, []),
        (65_536, 1 << 20, 1 << 30, []),
        (4096, 4096, 1 << 30, []),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1 << 30, []),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int, limits: list[tuple[int, int]]
) -> None:
    done: list[tuple[int, int]] = []

    def set_limit(_: int, limit: tuple[int, int]) -> None:
        if limit[0] > allowed:
            raise ValueError("not allowed")
        done.append(limit)

    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(module.resource, "setrlimit", set_limit)
    raise_open_files_limit()
    assert done == limits
