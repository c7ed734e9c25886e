"""Counting what a key has in progress, on a Redis that a test controls."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.access import concurrency_limits as module
from nextchar.app.access.concurrency import ConcurrencyLimit
from nextchar.app.access.concurrency_limits import TTL_S, ConcurrencyLimits
from nextchar.app.access.keys import Key
from nextchar.models.errors import Busy


class Redis:
    """Sorted sets by name, each as its members; `renewed` has the members that were renewed."""

    def __init__(self) -> None:
        self.sets: dict[str, set[str]] = {}
        self.renewed: list[str] = []
        self.calls = 0
        self.is_away = False

    async def eval(self, _: str, keys: int, name: str, *arguments: str) -> int:
        self._call()
        assert keys == 1 and arguments[-1] == str(TTL_S)
        members = self.sets.setdefault(name, set())
        if len(arguments) == 2:
            self.renewed.append(name)
            members.add(arguments[0])
            return 1
        if len(members) >= int(arguments[0]):
            return 0
        members.add(arguments[1])
        return 1

    async def zrem(self, name: str, member: str) -> None:
        self._call()
        self.sets[name].remove(member)

    async def aclose(self) -> None:
        pass

    def _call(self) -> None:
        self.calls += 1
        if self.is_away:
            raise RedisConnectionError("gone")


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def limits(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    made = ConcurrencyLimits("redis://127.0.0.1:1/0")
    monkeypatch.setattr(made, "_redis", redis)
    return made


REQUESTS, STREAMS = "nextchar:in_progress:requests:key", "nextchar:in_progress:streams:key"


def test_a_key_may_have_as_many_as_its_limit_and_each_kind_is_counted_apart(
    redis: Redis, limits: ConcurrencyLimits
) -> None:
    async def run() -> None:
        async with limits.hold("requests", "key", 2), limits.hold("streams", "key", 1):
            async with limits.hold("requests", "key", 2):
                assert (len(redis.sets[REQUESTS]), len(redis.sets[STREAMS])) == (2, 1)
                with pytest.raises(Busy, match="may have 2 requests in progress") as refused:
                    await limits.hold("requests", "key", 2).__aenter__()
                assert (refused.value.code, refused.value.retry_after_s) == ("too_many_requests", 1.0)
                with pytest.raises(Busy, match="may have 1 streams") as refused:
                    await limits.hold("streams", "key", 1).__aenter__()
                assert refused.value.code == "too_many_streams"
            async with limits.hold("requests", "key", 2):
                pass
        assert redis.sets == {REQUESTS: set(), STREAMS: set()}
        await limits.close()

    asyncio.run(run())


def test_after_a_failure_redis_is_left_alone_for_two_seconds_and_a_warning_comes_once_a_minute(
    redis: Redis,
    limits: ConcurrencyLimits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    redis.is_away = True

    async def run() -> None:
        nonlocal now_s
        for at_s, calls, warnings in (
            (1000.0, 1, 1),
            (1001.9, 1, 1),
            (1002.0, 2, 1),
            (1059.9, 3, 1),
            (1061.9, 4, 2),
            (1121.9, 5, 3),
        ):
            now_s = at_s
            async with limits.hold("requests", "key", 0):  # nothing is limited
                assert (redis.calls, len(caplog.records)) == (calls, warnings)
        redis.is_away = False
        now_s = 1123.9
        with pytest.raises(Busy):
            await limits.hold("requests", "key", 0).__aenter__()
        assert "concurrency of keys is not limited while Redis does not respond: gone" in caplog.text

    asyncio.run(run())


def test_what_is_in_progress_is_renewed_three_times_in_its_life_until_it_ends(
    redis: Redis, limits: ConcurrencyLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    wake = asyncio.Event()
    sleep = asyncio.sleep

    async def wait(seconds: float) -> None:
        slept.append(seconds)
        await wake.wait()
        wake.clear()

    async def settle() -> None:
        for _ in range(5):
            await sleep(0)

    async def run() -> None:
        for _ in range(2):  # also after there was nothing to renew
            redis.renewed.clear()
            async with AsyncExitStack() as long:
                await long.enter_async_context(limits.hold("requests", "key", 2))
                await long.enter_async_context(limits.hold("streams", "key", 1))
                for _ in range(2):
                    await settle()
                    wake.set()
                await settle()
                assert redis.renewed[:2] == [REQUESTS, STREAMS]
                assert len(redis.sets[REQUESTS]) == 1, "it is still counted"
            wake.set()
            await settle()
            assert redis.sets == {REQUESTS: set(), STREAMS: set()}
        await limits.close()

    monkeypatch.setattr(module.asyncio, "sleep", wait)
    asyncio.run(run())
    assert set(slept) == {TTL_S / 3}


def messages(
    kind: str, *, max_requests: int | None, max_streams: int | None, limits: Any, has_key: bool = True
) -> list[Message]:
    """Return what a client gets of a response of two parts to a key with these limits."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for is_last in (False, True):
            if (await receive())["type"] == "http.request":
                await send({"type": "http.response.body", "body": b"a", "more_body": not is_last})
            else:
                await send({"type": "http.response.body", "body": b"not read", "more_body": True})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        got.append(message)

    state: dict[str, Any] = {"services": type("Services", (), {"concurrency": limits})}
    if has_key:
        state["key"] = Key("key", b"", frozenset(), max_requests=max_requests, max_streams=max_streams)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": state}
    asyncio.run(ConcurrencyLimit(app)(scope, receive, send))
    return got


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "application/x-ndjson"])
def test_nothing_of_a_stream_that_is_one_too_many_reaches_the_client(
    limits: ConcurrencyLimits, kind: str
) -> None:
    start, body = messages(kind, max_requests=None, max_streams=0, limits=limits)
    assert start["status"] == 429 and b"too_many_streams" in body["body"]
    for all_of_it in (
        messages(kind, max_requests=1, max_streams=None, limits=limits),
        messages(kind, max_requests=1, max_streams=1, limits=limits),
        messages("application/json", max_requests=None, max_streams=0, limits=limits),
        messages(kind, max_requests=None, max_streams=None, limits=None),
        messages(kind, max_requests=None, max_streams=None, limits=None, has_key=False),
    ):
        assert [one.get("status", one.get("body")) for one in all_of_it] == [200, b"a", b"a"]


def test_a_request_that_is_one_too_many_is_not_begun(limits: ConcurrencyLimits) -> None:
    for max_streams in (None, 1):
        start, body = messages("application/json", max_requests=0, max_streams=max_streams, limits=limits)
        assert start["status"] == 429 and b"too_many_requests" in body["body"]
