"""Lines without end: each is scored once and in order, in bounded memory, whatever happens to the service."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest

from nextchar import AsyncClient, connection
from tests.clients.python.blocking import KINDS, connected
from tests.clients.python.fake_server import FakeServer
from tests.waiting import eventually


@pytest.fixture(params=[*KINDS, "asynchronous lines"])
def score(request: pytest.FixtureRequest, server: FakeServer) -> Iterator[Callable[..., Any]]:
    """`score_lines` of each client, and with an asynchronous iterable."""
    kind = "blocking" if request.param == "blocking" else "asyncio"
    with connected(kind, server.url, patience_s=1.0) as client:

        def score_lines(lines: Iterable[str | bytes], **options: Any) -> Any:
            source = asynchronous(lines) if request.param == "asynchronous lines" else lines
            return client.score_lines("fake", source, **options)

        yield score_lines


async def asynchronous(lines: Iterable[str | bytes]) -> AsyncIterator[str | bytes]:
    source = iter(lines)
    while (line := await asyncio.to_thread(next, source, None)) is not None:
        yield line


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_DELAY_S", 0.01)


def sent(server: FakeServer) -> list[bytes]:
    return [body for method, path, _, body in server.requests if (method, path[-6:]) == ("POST", "/score")]


def test_lines_come_back_numbered_with_their_text_and_flag(score: Callable[..., Any]) -> None:
    found = list(score(["fine\n", b"raw \xff\n", "Odd", ""], false_alarms=0.01))
    assert [(line["line"], line["text"], line["anomalous"]) for line in found] == [
        (1, "fine", False),
        (2, "raw \ufffd", False),
        (3, "Odd", True),
        (4, "", False),
    ]
    assert found[1]["not_utf8"] == {"offset": 4, "byte": "0xff"}
    assert found[2]["spans"] == [{"start": 0, "end": 1, "bits": 13.0, "expected": "?"}]


def test_endless_lines_are_read_a_little_ahead_until_the_caller_has_enough(
    score: Callable[..., Any], server: FakeServer
) -> None:
    read = itertools.count(1)
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for last in read:  # noqa: B007 - the test looks at it
            yield "x" * 1000

    scores = score(lines(), detail="none")
    for expected in range(1, 3001):
        assert next(scores)["line"] == expected
        assert last < expected + 2_100  # a batch of half a mebibyte, and a mebibyte ahead
    scores.close()
    after = last
    assert sum(body.count(b"\n") for body in sent(server)) <= after
    next(score(["x"]))
    assert last <= after + 1  # nobody reads on


def test_a_line_that_comes_alone_is_scored_at_once(score: Callable[..., Any]) -> None:
    is_answered = threading.Event()
    is_answered.set()

    def lines() -> Iterator[str]:
        for number in range(3):
            assert is_answered.wait(120), "the line before has no score yet"
            is_answered.clear()
            yield f"line {number}"

    for number, found in enumerate(score(lines())):
        assert found["text"] == f"line {number}"
        is_answered.set()


def test_what_was_answered_before_a_break_is_not_sent_again(
    score: Callable[..., Any], server: FakeServer
) -> None:
    server.cut_scores_after = [2, 0, None]
    found = list(score(["A", "b", "C", "d", "E", "f"], only="anomalous"))
    assert [line["line"] for line in found] == [1, 3, 5]
    whole = b"A\nb\nC\nd\nE\nf\n"
    assert b"".join(sent(server)[:1]).startswith(b"A\n") and set(whole) >= set(b"".join(sent(server)))
    assert sent(server)[-1].endswith(b"f\n") and not sent(server)[-1].startswith(b"A\n")


def test_what_the_lines_raise_comes_after_the_scores_before_it(score: Callable[..., Any]) -> None:
    def lines() -> Iterator[str]:
        yield "one"
        yield "two"
        raise KeyError("the log is gone")

    scores = score(lines())
    assert [next(scores)["line"], next(scores)["line"]] == [1, 2]
    with pytest.raises(KeyError, match="the log is gone"):
        next(scores)


def test_a_stream_of_lines_has_an_id_of_its_own_and_is_forgotten(
    score: Callable[..., Any], server: FakeServer
) -> None:
    list(score(["a" * 999] * 200, context="stream"))
    assert len(server.queries) > 1
    [stream_id] = {query["stream_id"] for query in server.queries}
    assert server.requests[-1][:2] == ("DELETE", f"/v1/models/fake/streams/{stream_id}")
    list(score(["a"], context="stream", stream_id="mine"))
    assert (server.queries[-1]["stream_id"], server.requests[-1][0]) == ("mine", "POST")


def test_a_cancelled_task_stops_reading_lines(server: FakeServer) -> None:
    ended = threading.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "a line"
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async def main() -> None:
        async with AsyncClient(server.url) as client:
            has_scores = asyncio.Event()

            async def watch() -> None:
                async for _ in client.score_lines("fake", endless()):
                    has_scores.set()

            task = asyncio.create_task(watch())
            await has_scores.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    eventually(ended.is_set, what="the lines are closed")
