"""Middleware around a fake application."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.http.incoming_body import SMALL_BYTES, BodyMemory
from nextchar.app.http.middleware import BodyLimit, RequestId
from nextchar.app.http.rules import JSON, MAX_JSON_BYTES, STREAMED, Body, Rule
from nextchar.app.operations.metrics import Metrics, RequestMetrics

SMALL = Body(10)
LINES = Body(MAX_JSON_BYTES, is_endless=lambda scope: scope["is_lines"])


class FakeServices(dict[type, Any]):
    settings = SimpleNamespace(body_timeout_s=5)

    def __init__(self, metrics: Any) -> None:
        super().__init__({Metrics: metrics})
        self.body_memory = BodyMemory(limit_bytes=1 << 20)


async def reads_its_body(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


def call(
    app: Any, body: Sequence[bytes] = (), *, expected: Body = JSON, **scope: Any
) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of an answer."""
    services = FakeServices(scope.pop("metrics", None))
    sent: list[Message] = []
    pieces = list(body)

    async def receive() -> Message:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    defaults = {"type": "http", "method": "POST", "path": "/", "headers": [], "is_lines": False}
    state = {"services": services, "rule": Rule(None, expected)}
    asyncio.run(app(defaults | {"state": state} | scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


def declared(length: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(length).encode())]


@pytest.mark.parametrize(
    ("body", "method", "is_lines", "length", "status"),
    [
        (SMALL, "POST", False, 10, 200),
        (SMALL, "POST", False, 11, 413),
        (JSON, "POST", False, MAX_JSON_BYTES, 200),
        (JSON, "POST", False, MAX_JSON_BYTES + 1, 413),
        (LINES, "POST", False, MAX_JSON_BYTES + 1, 413),
        (LINES, "POST", True, MAX_JSON_BYTES + 1, 200),
        (STREAMED, "POST", False, MAX_JSON_BYTES + 1, 200),
        (SMALL, "GET", False, 11, 200),  # bodies of GET are never read
    ],
)
def test_the_rule_of_a_call_limits_the_declared_length(
    body: Body, method: str, is_lines: bool, length: int, status: int
) -> None:
    app = BodyLimit(reads_its_body)
    assert call(app, method=method, expected=body, is_lines=is_lines, headers=declared(length))[0] == status


def test_undeclared_bodies_are_counted_and_passed_on() -> None:
    app = BodyLimit(reads_its_body)
    assert call(app, [b"12345", b"67890"], expected=SMALL) == (200, {}, b"1234567890")
    with pytest.raises(Exception, match="413"):
        call(app, [b"12345", b"67890", b"1"], expected=SMALL)


@pytest.mark.parametrize(("pieces_read", "held"), [(2, b"100000 0"), (1, b"100000 100000")])
def test_a_complete_body_is_counted_until_its_response_begins(pieces_read: int, held: bytes) -> None:
    piece = bytes(SMALL_BYTES + 100_000)
    memories: list[BodyMemory] = []

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        memory = scope["state"]["services"].body_memory
        memories.append(memory)
        for _ in range(pieces_read):
            await receive()
        before = memory.held_bytes
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d %d" % (before, memory.held_bytes)})

    _, _, body = call(BodyLimit(streams), [piece, b""])
    assert body == held
    assert memories[0].held_bytes == 0


@pytest.mark.parametrize(("header", "is_kept"), [(b"a.b-c_1", True), (b"a b", False), (b"x" * 129, False)])
def test_valid_request_ids_are_kept_and_others_replaced(header: bytes, is_kept: bool) -> None:
    _, headers, _ = call(RequestId(reads_its_body), headers=[(b"x-request-id", header)])
    assert (headers["x-request-id"] == header.decode()) == is_kept
    assert len(headers["x-request-id"]) >= 7


def test_unexpected_error_is_a_500_with_a_request_id() -> None:
    status, headers, body = call(RequestId(fails))
    assert status == 500 and headers["x-request-id"] and b"internal_error" in body
    assert b"ZeroDivisionError" not in body


def test_requests_are_counted_by_route_template_and_status() -> None:
    metrics = Metrics()
    call(RequestMetrics(reads_its_body), metrics=metrics, route=SimpleNamespace(path="/jobs/{job}"))
    call(RequestMetrics(reads_its_body), metrics=metrics)
    lines = metrics.exposition().decode().splitlines()
    for route in ("/jobs/{job}", "unmatched"):
        labels = f'method="POST",route="{route}"'
        assert f'nextchar_http_requests_total{{{labels},status="200"}} 1.0' in lines
        assert f"nextchar_http_request_seconds_count{{{labels}}} 1.0" in lines
    assert "nextchar_http_requests_in_flight 0.0" in lines
