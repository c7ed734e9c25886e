"""Requests that take long, and whose clients are gone, hold up nobody."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from nextchar.app.scoring.streams import Streams
from tests.app.fakes import ENDLESS, SLOW, SLOW_S, publish
from tests.app.raw_http import is_answer
from tests.app.scoring.locked_streams import locked
from tests.app.service import Service, error_of, until

MODEL = "/v1/models/fake"
LONG = [SLOW, *["ab" * 50] * 30]

PROMPT_S = SLOW_S / 4
"""Within so many seconds whoever waits for nobody is answered, on a busy machine too."""


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)
    assert service.http.post(f"{MODEL}/next", json={"prompt": "a"}).status_code == 200


@contextlib.contextmanager
def asking(
    service: Service, path: str, body: str, *, count: int = 1, kind: str = "application/json"
) -> Iterator[list[socket.socket]]:
    """Clients that have sent a request each, until the block ends; then they are gone."""
    place = urlsplit(str(service.http.base_url))
    assert place.hostname and place.port
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        address = (place.hostname, place.port)
        clients = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(count)]
        for client in clients:
            client.sendall((head + body).encode())
        yield clients


def answers_promptly(service: Service) -> None:
    """Check that what is short is answered at once."""
    began = time.monotonic()
    for path, body in (
        ("next", {"prompt": "a"}),
        ("complete", {"prompt": "a", "max_characters": 3}),
        ("score", {"lines": ["ab"]}),
    ):
        assert service.http.post(f"{MODEL}/{path}", json=body).status_code == 200
    assert time.monotonic() - began < PROMPT_S


def refused(clients: Sequence[socket.socket]) -> int:
    """Return how many of the clients have an answer, which must be a 429 that says when to come again."""
    count = 0
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            answer = client.recv(65536, socket.MSG_PEEK)
            if not is_answer(answer):
                continue  # its rest is on the way
            assert b" 429 " in answer and b"retry-after" in answer.lower(), answer
            count += 1
    return count


@pytest.mark.parametrize(
    ("path", "body", "served"),
    [
        ("calibrate", {"lines": LONG}, 6),
        ("evaluate", {"lines": LONG * 2, "anomalous": [0, 1] * 31, "baselines": False}, 3),
        ("score", {"lines": LONG}, 34),
    ],
)
def test_forty_long_requests_do_not_delay_short_ones_and_end_with_their_clients(
    service: Service, path: str, body: dict[str, Any], served: int
) -> None:
    [engine] = service.engines
    with asking(service, f"{MODEL}/{path}", json.dumps(body), count=40) as clients:
        assert engine.is_reading_slowly.wait(120)
        until(lambda: refused(clients) == 40 - served)
        answers_promptly(service)
        in_stream = {"lines": ["ab"], "context": "stream", "stream_id": "s"}
        assert service.http.post(f"{MODEL}/score", json=in_stream, timeout=PROMPT_S).status_code == 200
    until(lambda: engine.slow_readers == 0)
    again = service.http.post(f"{MODEL}/calibrate", json={"lines": ["ab"] * 9})
    assert again.status_code == 201
    assert service.http.post(f"{MODEL}/score", json={"lines": ["ab" * 9] * 300}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [(f"{MODEL}/complete", {"max_characters": 1}), ("/v1/completions", {"model": "fake", "max_tokens": 1})],
)
def test_long_prompts_that_are_described_leave_others_alone_and_end_with_their_clients(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    [engine] = service.engines
    long = body | {"prompt": f"{SLOW} {'ab' * 2_000}", "echo": True, "logprobs": 5}
    with asking(service, path, json.dumps(long), count=80) as clients:
        assert engine.is_reading_slowly.wait(120)
        until(lambda: refused(clients) == 80 - 66)
        answers_promptly(service)
        short = service.http.post(path, json=long | {"prompt": "ab"}, timeout=PROMPT_S)
        assert short.status_code == 200
        assert service.http.get("/v1/jobs", timeout=PROMPT_S).status_code == 200
    until(lambda: engine.slow_readers == 0)


def test_long_prompts_before_a_next_character_leave_others_alone_and_end_with_their_clients(
    service: Service,
) -> None:
    [engine] = service.engines
    with asking(service, f"{MODEL}/next", json.dumps({"prompt": ENDLESS + "a" * 20_000}), count=40):
        until(lambda: len(engine.tickets) == 40)
        long = engine.tickets[:]
        answers_promptly(service)
        assert not any(ticket.cancelled.is_set() for ticket in long)
    until(lambda: all(ticket.cancelled.is_set() for ticket in long))


def test_a_calibration_without_its_client_replaces_nothing(service: Service) -> None:
    [engine] = service.engines
    with asking(service, f"{MODEL}/calibrate", json.dumps({"lines": LONG})):
        assert engine.is_reading_slowly.wait(120)
    until(lambda: engine.slow_readers == 0)
    assert service.http.get(f"{MODEL}/calibrations").json()["data"] == []


def test_calls_that_wait_for_a_streams_lock_delay_no_others(service: Service) -> None:
    body = {"lines": ["ab"], "context": "stream", "stream_id": "s"}
    with locked(Streams(service.live._redis), "fake@1", "s", size=1):
        with asking(service, f"{MODEL}/score", json.dumps(body), count=80) as clients:
            until(lambda: refused(clients) == 80 - 64)
            answers_promptly(service)
            other = service.http.post(f"{MODEL}/score", json=body | {"stream_id": "t"})
            assert error_of(other, 429)["code"] == "busy"
        # Those that waited are gone, and have left their places to others.
        until(lambda: service.http.post(f"{MODEL}/score", json=body | {"stream_id": "t"}).status_code == 200)
    assert service.http.post(f"{MODEL}/score", json=body).json()["stream"]["lines"] == 1


def test_streamed_lines_that_wait_for_a_lock_delay_no_others(service: Service) -> None:
    def send(_: int) -> str:
        query = {"context": "stream", "stream_id": "s"}
        headers = {"Content-Type": "text/plain"}
        return service.http.post(f"{MODEL}/score", content=b"ab\n", headers=headers, params=query).text

    with ThreadPoolExecutor(20) as pool:
        with locked(Streams(service.live._redis), "fake@1", "s", size=1):
            waiting = [pool.submit(send, i) for i in range(20)]
            until(lambda: all(future.running() for future in waiting))
            answers_promptly(service)
        ended = sorted(json.loads(future.result().splitlines()[-1])["stream"]["lines"] for future in waiting)
    assert ended == list(range(1, 21))


def test_streamed_lines_are_scored_no_further_once_their_client_is_gone(service: Service) -> None:
    [engine] = service.engines
    with asking(service, f"{MODEL}/score", SLOW + "\n", kind="text/plain"):
        assert engine.is_reading_slowly.wait(120)
    until(lambda: engine.slow_readers == 0)
