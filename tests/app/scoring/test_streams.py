import asyncio
import os
import signal
import threading
from pathlib import Path

import anyio
import numpy as np
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from nextchar.app.scoring.streams import TTL_S, WAIT_S, Limits, Owner, StreamLocks, Streams
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.errors import Conflict
from tests.app.scoring.locked_streams import locked
from tests.waiting import eventually

STATE = np.array([[0.5, -1.5]], np.float32)
PACKED = STATE.astype("<f4").tobytes()


def test_the_state_is_shared_by_all_processes(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.state, turn.stream.restarted, turn.stream.lines) == (None, "new", 0)
        turn.save(STATE, lines=3)
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        np.testing.assert_array_equal(turn.stream.state, STATE)
        assert (turn.stream.restarted, turn.stream.lines) == (None, 3)
    assert 0 < redis.ttl("nextchar:stream:m:s") <= TTL_S


def test_a_stream_restarts_with_another_model_of_the_same_version(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2) as turn:  # as before model ids were kept
        turn.save(STATE, lines=1)
    for model_id, restarted in (("model_a", None), ("model_a", None), ("model_b", "model_replaced")):
        with locked(Streams(redis), "m@1", "s", size=2, model_id=model_id) as turn:
            assert turn.stream.restarted == restarted
            turn.save(STATE, lines=1)


def test_calls_on_one_stream_are_serialized(redis: Redis) -> None:
    entered = threading.Event()

    def second() -> None:
        with locked(Streams(redis), "m@1", "s", size=2) as turn:
            entered.set()
            turn.save(STATE, lines=1)

    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.1)
        turn.save(STATE, lines=1)
    thread.join(60)
    assert redis.hget("nextchar:stream:m:s", "lines") == "2"


def test_waiting_too_long_is_a_conflict(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2):
        with pytest.raises(Conflict) as caught, locked(Streams(redis), "m@1", "s", size=2, wait_s=0.05):
            pytest.fail("two turns at once")
        assert caught.value.code == "stream_busy"
        with locked(Streams(redis), "m@1", "other", size=2):
            pass


def test_a_long_turn_keeps_its_lock(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.app.scoring.streams._LOCK_S", 12)  # renewed after 4 s, or after 0.1 s
    wait = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda event, _=None: wait(event, 0.1))
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        redis.expire("nextchar:stream-lock:m:s", 5)
        eventually(lambda: redis.ttl("nextchar:stream-lock:m:s") > 5, what="the lock is renewed")
        turn.save(STATE, lines=1)
    assert redis.hget("nextchar:stream:m:s", "lines") == "1"


def use(streams: Streams, *ids: str, owner: str = "", numbers: int = 1000) -> None:
    """Save a state of so many numbers in each stream, in this order."""
    for stream_id in ids:
        with locked(streams, "m@1", stream_id, size=numbers, owner=Owner(owner)) as turn:
            turn.save(np.zeros((1, numbers), np.float32), lines=1)


def kept(redis: Redis) -> set[str]:
    """The ids of the streams that are kept."""
    found = redis.scan_iter("nextchar:stream:m:*")
    return {key.removeprefix("nextchar:stream:m:") for key in found}


def test_memory_of_redis_stays_about_within_the_bound(redis: Redis) -> None:
    def kept_bytes() -> int:
        memory = redis.info("memory")
        return int(memory["used_memory"] - memory["mem_aof_buffer"] - memory["mem_clients_normal"])

    before = kept_bytes()
    use(Streams(redis, Limits(max_bytes=2_000_000)), *map(str, range(500)), numbers=5_000)
    # Deleted streams are freed in the background.
    eventually(lambda: redis.info("memory")["lazyfree_pending_objects"] == 0, what="memory is freed")
    assert 1_000_000 < kept_bytes() - before < 3_000_000


def test_a_call_waits_longer_than_the_lock_of_a_dead_process_lasts(redis: Redis) -> None:
    lock = Streams(redis).try_lock("m@1", "s", size=2)
    assert lock is not None
    assert 0 < redis.pttl("nextchar:stream-lock:m:s") <= (WAIT_S - 1) * 1000
    lock.release()


def test_a_lock_whose_call_redis_did_not_answer_keeps_no_later_call_from_the_stream(tmp_path: Path) -> None:
    """Redis hangs, which sets the lock when it continues, though no call waits for it any longer."""
    with EmbeddedValkey(tmp_path) as valkey:
        redis = Redis.from_url(
            valkey.url, decode_responses=True, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)
        )
        streams = Streams(redis)
        lock = streams.try_lock("m@1", "held", size=2)
        assert lock is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        with pytest.raises(RedisError):
            streams.try_lock("m@1", "new", size=2)
        with pytest.raises(RedisError):
            lock.release()
        os.kill(valkey.pid, signal.SIGCONT)
        for stream_id in ("held", "new"):
            with locked(streams, "m@1", stream_id, size=2) as turn:
                turn.save(STATE, lines=1)


def test_limits_are_those_that_are_documented() -> None:
    assert Limits() == Limits(max_streams=10_000, max_bytes=64 * 1024**2, owner_fraction=1.0)
    assert not Owner().is_private


def test_a_process_can_end_while_it_holds_a_lock(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2):
        assert {one.daemon for one in threading.enumerate() if one.name == "stream lock"} == {True}


@pytest.fixture
def streams(redis: Redis) -> Streams:
    return Streams(redis)


def test_locks_of_calls_cancelled_at_any_moment_are_released(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.scoring.streams.WAIT_S", 60)  # a leaked lock would be renewed forever

    async def call(locks: StreamLocks) -> None:
        async with locks.hold("m@1", "s", size=1, owner=Owner()):
            await asyncio.sleep(0.001)

    async def run() -> None:
        locks = StreamLocks(streams, anyio.CapacityLimiter(8))
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
    monkeypatch.setattr("nextchar.app.scoring.streams.WAIT_S", 0.05)

    async def run() -> None:
        locks = StreamLocks(streams, anyio.CapacityLimiter(8))
        async with locks.hold("m@1", "s", size=1, owner=Owner()):
            with pytest.raises(Conflict) as caught:
                async with locks.hold("m@1", "s", size=1, owner=Owner()):
                    pytest.fail("two holders at once")
            assert caught.value.code == "stream_busy"

    asyncio.run(run())
