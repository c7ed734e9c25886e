import asyncio

import pytest
from redis import Redis

from nextchar.app.scoring.streams import Owner, Streams
from nextchar.app.scoring.work import StreamLocks
from nextchar.models.errors import Conflict


@pytest.fixture
def streams(redis: Redis) -> Streams:
    return Streams(redis)


def test_locks_of_calls_cancelled_at_any_moment_are_released(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.scoring.work.WAIT_S", 60)  # a leaked lock would be renewed forever

    async def call(locks: StreamLocks) -> None:
        async with locks.hold("m@1", "s", size=1, owner=Owner()):
            await asyncio.sleep(0.001)

    async def run() -> None:
        locks = StreamLocks(streams)
        for i in range(40):
            calls = [asyncio.create_task(call(locks)) for _ in range(3)]
            await asyncio.sleep(i * 1e-4)
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await call(locks)

    asyncio.run(run())


def test_call_that_waits_too_long_for_a_lock_is_refused(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.scoring.work.WAIT_S", 0.05)

    async def run() -> None:
        locks = StreamLocks(streams)
        async with locks.hold("m@1", "s", size=1, owner=Owner()):
            with pytest.raises(Conflict) as caught:
                async with locks.hold("m@1", "s", size=1, owner=Owner()):
                    pytest.fail("two holders at once")
            assert caught.value.code == "stream_busy"

    asyncio.run(run())
