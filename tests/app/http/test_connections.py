"""Slow clients over real sockets: what they may hold, for how long, and that others are answered."""

import contextlib
import gc
import json
import resource
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nextchar.app.http.bodies import DocumentRequest
from nextchar.app.http.connections import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    UNREAD_S,
    BoundedHttpProtocol,
    default_max_connections,
    raise_open_files_limit,
)
from nextchar.app.openai.requests import ResolvedPrompt
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import ENDLESS, publish
from tests.app.raw_http import answer_in, connected, is_answer, read_all, read_answer
from tests.app.service import Service, error_of, serving, until

COMPLETE = "/v1/models/fake/complete"
HALF_HEADER = b"POST /v1/models/fake/complete HTTP/1.1\r\nHost: localhost\r\nX-"


@contextlib.contextmanager
def service_with(settings: ApiSettings, **changes: Any) -> Iterator[Service]:
    """The API with other limits, and a model."""
    with serving(settings.model_copy(update=changes)) as running:
        publish(running.models)
        yield running


def request(path: str, body: bytes, *, length: int | None = None, kind: str = "application/json") -> bytes:
    """The bytes of a POST; with a `length` that is greater than the body, of half of one."""
    header = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{header}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_keystroke_is_answered_while_1100_requests_are_half_sent(settings: ApiSettings) -> None:
    raise_open_files_limit()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4000:
        pytest.skip("this system lets no process open 4000 files")
    limits = {"max_connections": 100, "header_timeout_s": 3600}
    with service_with(settings, **limits) as service, contextlib.ExitStack() as all_of_them:
        assert service.http.post(COMPLETE, json={"prompt": "a"}).status_code == 200
        clients = [all_of_them.enter_context(connected(service, HALF_HEADER)) for _ in range(1100)]
        with httpx.Client(base_url=service.http.base_url, timeout=60) as http:
            for _ in range(3):
                assert http.post(COMPLETE, json={"prompt": "a"}).status_code == 200
        until(lambda: sum(map(is_closed, clients)) >= 1000)


def test_connection_without_a_complete_header_is_closed(settings: ApiSettings) -> None:
    with (
        service_with(settings, header_timeout_s=0.3) as service,
        connected(service) as silent,
        connected(service, HALF_HEADER) as slow,
    ):
        assert read_all(silent) == b""
        answer = answer_in(read_all(slow))
        assert answer.status_code == 408 and answer.json()["error"]["code"] == "request_timeout"
        assert answer.headers["connection"] == "close"


def test_header_sent_byte_by_byte_has_the_same_deadline(settings: ApiSettings) -> None:
    with service_with(settings, header_timeout_s=0.3) as service, connected(service, HALF_HEADER) as slow:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not is_closed(slow):
                slow.sendall(b"x")
                assert time.monotonic() - began < 60


def test_connection_that_is_idle_between_requests_is_kept(settings: ApiSettings) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with service_with(settings, header_timeout_s=0.3) as service, connected(service, get) as idle:
        assert read_answer(idle).status_code == 200
        with connected(service) as silent:
            assert read_all(silent) == b""  # by now it has been idle for longer than a header may take
        idle.sendall(get)
        assert read_answer(idle).status_code == 200
        idle.sendall(get[:-10])  # the next one is as bound as the first
        assert answer_in(read_all(idle)).status_code == 408


def test_header_without_an_end_is_refused(settings: ApiSettings) -> None:
    with service_with(settings) as service, connected(service, HALF_HEADER) as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                client.sendall(b"x" * 10_000)
        until(lambda: is_closed(client))


def is_broken_off(client: socket.socket, piece: bytes, *, max_bytes: int = 4 << 20) -> bool:
    """Send a piece again and again; return whether the server ends this before `max_bytes`."""
    client.settimeout(60)
    try:
        for _ in range(max_bytes // len(piece)):
            client.sendall(piece)
    except ConnectionError:
        return True
    return False


def watch(job: str) -> bytes:
    return (
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    )


@pytest.mark.parametrize("end", [b"0\r\nX: ", b"4;x="], ids=["trailer", "chunk extension"])
def test_what_surrounds_the_body_of_an_endless_stream_has_an_end(settings: ApiSettings, end: bytes) -> None:
    header = b"POST /v1/models/fake/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    with (
        service_with(settings) as service,
        connected(service, header + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabc\n\r\n") as client,
    ):
        assert read_answer(client).status_code == 200
        client.sendall(end)
        assert is_broken_off(client, b"x" * 50_000)


def test_stream_of_single_bytes_in_chunks_is_no_header(settings: ApiSettings) -> None:
    header = b"POST /v1/models/fake/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    with (
        service_with(settings) as service,
        connected(service, header + b"Transfer-Encoding: chunked\r\n\r\n") as client,
    ):
        for _ in range(20):
            client.sendall(b"1\r\na\r\n" * 1000)
        client.sendall(b"1\r\n\n\r\n0\r\n\r\n")
        lines = client.makefile("rb")
        until(lambda: b"score.end" in lines.readline())


def test_request_with_too_many_headers_is_refused(service: Service) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    with connected(service, get + b"a:\r\n" * (MAX_HEADERS - 1) + b"\r\n") as client:
        assert read_answer(client).status_code == 200
    for many in (b"a:\r\n" * MAX_HEADERS, b"a: %b\r\n" % (b"x" * MAX_HEADER_BYTES)):
        with connected(service, get + many + b"\r\n") as client:
            assert error_code(read_all(client)) == "header_too_large"


def error_code(received: bytes) -> str:
    return str(answer_in(received).json()["error"]["code"])


OPENAPI = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"  # a large response


def unread(service: Service, held: contextlib.ExitStack, *, requests: int = 1) -> socket.socket:
    """A connection with responses of which the client reads nothing, with a small buffer in the kernel."""
    client = held.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((service.http.base_url.host, service.http.base_url.port))
    client.sendall(OPENAPI * requests)
    return client


def at_server(client: socket.socket) -> BoundedHttpProtocol | None:
    """The server's side of a connection; None if it has closed it, of which a client may not know."""
    address = client.getsockname()[:2]
    all_of_them = [c for c in gc.get_objects() if isinstance(c, BoundedHttpProtocol)]
    is_open = [c for c in all_of_them if c in c._connections._all]
    return next((c for c in is_open if c.transport.get_extra_info("peername")[:2] == address), None)


def has_unread(client: socket.socket) -> bool:
    connection = at_server(client)
    return connection is not None and connection.transport.get_write_buffer_size() > 0


def test_response_that_is_not_read_is_broken_off(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nextchar.app.http.connections.UNREAD_S", 1.0)
    with service_with(settings, header_timeout_s=0.2) as service, contextlib.ExitStack() as held:
        client = unread(service, held, requests=2)
        slow = unread(service, held)  # reads, slowly
        began = time.monotonic()
        received = b""
        slow.settimeout(10)
        while not (received and is_answer(received)):
            received += slow.recv(40_000)
            select.select([], [], [], 0.02)  # a hundred times, since the kernel has a few KiB at a time
        assert time.monotonic() - began > 1.0  # it took longer than a pause may
        until(lambda: at_server(client) is None)
    assert "Exception in ASGI application" not in caplog.text


def test_responses_that_are_not_read_share_a_memory_limit_and_the_oldest_is_broken_off(
    settings: ApiSettings,
) -> None:
    with service_with(settings, body_memory_bytes=1 << 20) as service, contextlib.ExitStack() as held:
        size = len(service.http.get("/openapi.json").content)
        clients: list[socket.socket] = []
        for _ in range(3 * (1 << 20) // size):
            clients.append(unread(service, held))
            until(lambda: has_unread(clients[-1]))
        until(lambda: [at_server(client) for client in clients].count(None) >= len(clients) // 2)
        assert at_server(clients[-1])
        assert service.http.get("/openapi.json").status_code == 200
        assert service.http.post(COMPLETE, json={"prompt": "a"}).status_code == 200


def test_connection_of_a_client_that_has_vanished_is_noticed(service: Service) -> None:
    with connected(service, watch(service.submit())) as client:
        assert read_answer(client).status_code == 200
        connection = at_server(client)
        assert connection
        kernel = connection.transport.get_extra_info("socket")
        assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        idle_s, interval_s, limit_ms = (kernel.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle_s + interval_s < limit_ms / 1000 == UNREAD_S


def test_connections_without_a_header_are_replaced_first_and_served_ones_never(settings: ApiSettings) -> None:
    with service_with(settings, max_connections=3) as service:
        job = service.submit()
        service.http.close()
        watch = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        with (
            connected(service, watch.encode()) as served,
            connected(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as idle,
        ):
            assert read_answer(served).status_code == 200
            assert read_answer(idle).status_code == 200
            with connected(service, HALF_HEADER) as slow, connected(service, HALF_HEADER) as newer:
                until(lambda: is_closed(slow))
                assert not is_closed(newer) and not is_closed(idle)
                with connected(service, watch.encode()) as second:
                    until(lambda: is_closed(newer))
                    assert read_answer(second).status_code == 200
                    with connected(service, watch.encode()) as third:
                        until(lambda: is_closed(idle))
                        assert read_answer(third).status_code == 200
                        with connected(service) as refused:
                            answer = answer_in(read_all(refused))
                        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
                        assert not is_closed(served)


def test_slot_of_a_closed_connection_is_free(settings: ApiSettings) -> None:
    with service_with(settings, max_connections=2) as service:
        job = service.submit()
        service.http.close()
        watch = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        for _ in range(3):
            with connected(service, watch.encode()) as one, connected(service, watch.encode()) as other:
                assert read_answer(one).status_code == 200
                assert read_answer(other).status_code == 200
            until(lambda: _is_answered(service))


def _is_answered(service: Service) -> bool:
    try:
        return httpx.get(f"{service.http.base_url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_body_that_stops_is_answered_408(settings: ApiSettings) -> None:
    with service_with(settings, body_timeout_s=0.3) as service:
        for path, kind in ((COMPLETE, "application/json"), ("/v1/corpora", "text/plain")):
            half = request(path, b'{"prompt": ', length=100, kind=kind)
            with connected(service, half) as slow:
                answer = answer_in(read_all(slow))
            assert error_of(answer, 408)["code"] == "request_timeout"
            assert answer.headers["connection"] == "close"
        until(lambda: service.spooled == [])


def test_json_body_that_never_ends_is_answered_408(settings: ApiSettings) -> None:
    with service_with(settings, body_timeout_s=0.3) as service:
        endless = request(COMPLETE, b'{"prompt": "', length=30_000_000)
        with connected(service, endless) as client:
            began = time.monotonic()
            answers = select.poll()  # select() takes no number above 1024, and the tests have many files open
            answers.register(client, select.POLLIN)
            while not answers.poll(50):
                client.sendall(b"a" * 20_000)
            answer = read_answer(client)
            assert error_of(answer, 408)["code"] == "request_timeout"
            assert time.monotonic() - began > 1.1  # four times the timeout


def test_slow_but_steady_upload_is_not_cut(settings: ApiSettings) -> None:
    piece = b"the quick brown fox\n" * 1000
    with (
        service_with(settings, body_timeout_s=1.5, header_timeout_s=1.5) as service,
        connected(service, request("/v1/corpora", b"", length=20 * len(piece), kind="text/plain")) as client,
    ):
        for _ in range(20):  # it takes longer than 1.5 s, of which no pause takes a tenth
            client.sendall(piece)
            time.sleep(0.1)
        assert read_answer(client).status_code == 201


def test_incomplete_bodies_share_a_memory_limit_and_the_oldest_is_refused(settings: ApiSettings) -> None:
    body = json.dumps({"prompt": "a" * 900_000, "max_characters": 1}).encode()
    with service_with(settings, body_memory_bytes=2 << 20) as service, contextlib.ExitStack() as held:
        half = request(COMPLETE, body[:-1], length=len(body))
        clients = [held.enter_context(connected(service, half)) for _ in range(6)]
        first = read_answer(clients[0])
        assert error_of(first, 503)["code"] == "overloaded" and first.headers["retry-after"] == "1"
        assert "NEXTCHAR_BODY_MEMORY_BYTES" in first.json()["error"]["message"]
        # One that sends its body at once gets through, and so does any keystroke.
        assert (
            service.http.post(
                COMPLETE, content=body, headers={"content-type": "application/json"}
            ).status_code
            == 200
        )
        assert service.http.post(COMPLETE, json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize("path", [COMPLETE, "/v1/completions"])
def test_the_bodies_of_streams_neither_count_nor_stay_in_memory(settings: ApiSettings, path: str) -> None:
    fields = {"prompt": ENDLESS, "stream": True} | ({} if path == COMPLETE else {"model": "fake"})
    body = json.dumps(fields).encode() + b" " * 900_000
    with service_with(settings, body_memory_bytes=1 << 20) as service, contextlib.ExitStack() as held:
        for _ in range(3):
            stream = held.enter_context(connected(service, request(path, body)))
            assert read_answer(stream).status_code == 200
        bodies = (DocumentRequest, ResolvedPrompt)
        until(lambda: not any(type(one) in bodies for one in gc.get_objects()), deadline_s=20)


def test_target_with_a_host_counts_for_more_than_the_header(service: Service) -> None:
    for target, host, status in (
        ("http://evil.example/healthz", "localhost", 421),
        ("http://localhost:8000/healthz", "evil.example", 200),
        ("http://[::1]/healthz", "evil.example", 200),
    ):
        get = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        with connected(service, get.encode()) as client:
            assert read_answer(client).status_code == status, target


def test_target_with_an_address_has_the_origin_of_its_pages(service: Service) -> None:
    for origin, status in (
        ("http://[::1]:8000", 201),
        ("http://[::1]:9000", 403),
        ("http://[::2]:8000", 403),
    ):
        post = f"POST http://[::1]:8000/v1/corpora HTTP/1.1\r\nHost: evil.example\r\nOrigin: {origin}\r\n"
        post += "Content-Type: text/plain\r\nContent-Length: 6\r\n\r\na text"
        with connected(service, post.encode()) as client:
            assert read_answer(client).status_code == status, origin


def test_quiet_stream_of_lines_is_not_cut(settings: ApiSettings) -> None:
    with service_with(settings, body_timeout_s=0.3, header_timeout_s=0.3) as service:
        header = "POST /v1/models/fake/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        start = header.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
        with connected(service, start) as stream:
            lines = stream.makefile("rb")
            for line in (b"abc\n", b"def\n"):
                stream.sendall(b"%x\r\n%b\r\n" % (len(line), line))
                until(lambda: b"score.line" in lines.readline())
                with connected(service, request(COMPLETE, b"{", length=9)) as slow:
                    assert answer_in(read_all(slow)).status_code == 408  # by now it is late
            stream.sendall(b"0\r\n\r\n")
            until(lambda: b"score.end" in lines.readline())


def test_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(900, soft), hard))
        assert default_max_connections() <= 300
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
