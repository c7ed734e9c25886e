import asyncio

import pytest
from redis import Redis

from app.services.stream_locks import StreamLocks
from models.errors import Conflict
from store.streams import Owner, Streams


@pytest.fixture
def streams(clean_redis_url: str) -> Streams:
    return Streams(Redis.from_url(clean_redis_url, decode_responses=True))


def test_turns_of_calls_that_are_cancelled_at_any_moment_go_to_others(streams: Streams) -> None:
    async def call(turns: StreamLocks) -> None:
        async with turns.turn("m@1", "s", size=1, owner=Owner()):
            await asyncio.sleep(0.001)

    async def run() -> None:
        turns = StreamLocks(streams)
        for i in range(40):
            calls = [asyncio.create_task(call(turns)) for _ in range(3)]
            await asyncio.sleep(i * 1e-4)
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.wait_for(call(turns), 8)  # else a lock that nobody ends would be renewed for ever

    asyncio.run(run())


def test_who_waits_too_long_on_the_event_loop_is_told(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.stream_locks.WAIT_S", 0.05)

    async def run() -> None:
        turns = StreamLocks(streams)
        async with turns.turn("m@1", "s", size=1, owner=Owner()):
            with pytest.raises(Conflict) as caught:
                async with turns.turn("m@1", "s", size=1, owner=Owner()):
                    pytest.fail("two turns at once")
            assert caught.value.code == "stream_busy"

    asyncio.run(run())
