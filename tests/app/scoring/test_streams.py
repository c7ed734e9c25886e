import asyncio
import base64
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

from nextchar.app.scoring.streams import TTL_S, WAIT_S, Limits, Owner, StreamLocks, Streams, _UnreleasedLocks
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


@pytest.mark.parametrize(("model", "size"), [("m@2", 2), ("m@1", 3)])
def test_a_stream_restarts_with_another_model_version(redis: Redis, model: str, size: int) -> None:
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        turn.save(STATE, lines=1)
    with locked(Streams(redis), model, "s", size=size) as turn:
        assert (turn.stream.state, turn.stream.restarted) == (None, "model_replaced")


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


def test_a_turn_that_was_lost_changes_nothing(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        redis.set("nextchar:stream-lock:m:s", "somebody else")
        with pytest.raises(Conflict) as caught:
            turn.save(STATE, lines=1)
    assert caught.value.code == "stream_lost"
    assert not redis.exists("nextchar:stream:m:s")
    assert redis.get("nextchar:stream-lock:m:s") == "somebody else"


def test_turns_end_when_their_block_fails(redis: Redis) -> None:
    with pytest.raises(ZeroDivisionError), locked(Streams(redis), "m@1", "s", size=2):
        raise ZeroDivisionError
    assert not redis.exists("nextchar:stream-lock:m:s")


def test_deleted_streams_restart(redis: Redis) -> None:
    streams = Streams(redis)
    with locked(streams, "m@1", "s", size=2) as turn:
        turn.save(STATE, lines=1)
    assert streams.forget("m", "s") and not streams.forget("m", "s")


def test_a_long_turn_keeps_its_lock(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.app.scoring.streams._LOCK_S", 12)  # renewed after 4 s, or after 0.1 s
    wait = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda event, _=None: wait(event, 0.1))
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        redis.expire("nextchar:stream-lock:m:s", 5)
        eventually(lambda: redis.ttl("nextchar:stream-lock:m:s") > 5, what="the lock is renewed")
        turn.save(STATE, lines=1)
    assert redis.hget("nextchar:stream:m:s", "lines") == "1"


def test_no_stream_is_another_ones_lock(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s:lock", size=2) as turn:
        turn.save(STATE, lines=1)
    with locked(Streams(redis), "m@1", "s", size=2, wait_s=0.0) as turn:
        assert turn.stream.lines == 0


def test_private_streams_are_apart_and_the_others_shared(redis: Redis) -> None:
    streams = Streams(redis)
    shared, private = (
        (Owner(), Owner("a"), Owner("b")),
        (Owner("a", is_private=True), Owner("b", is_private=True)),
    )
    with locked(streams, "m@1", "s", size=2, owner=private[0]) as turn:
        turn.save(STATE, lines=1)
    for lines, owner in enumerate(shared):
        with (
            locked(streams, "m@1", "s", size=2, owner=owner) as turn,
            locked(streams, "m@1", "s", size=2, owner=private[1]),
        ):
            assert turn.stream.lines == lines
            turn.save(STATE, lines=1)
    assert [streams.forget("m@1", "s", owner=owner) for owner in private] == [True, False]
    assert [streams.forget("m@1", "s", owner=owner) for owner in shared] == [True, False, False]
    assert redis.hgetall("nextchar:streams:bytes") == {"all": "0"}


def use(streams: Streams, *ids: str, owner: str = "", numbers: int = 1000) -> None:
    """Save a state of so many numbers in each stream, in this order."""
    for stream_id in ids:
        with locked(streams, "m@1", stream_id, size=numbers, owner=Owner(owner)) as turn:
            turn.save(np.zeros((1, numbers), np.float32), lines=1)


def kept(redis: Redis) -> set[str]:
    """The ids of the streams that are kept."""
    found = redis.scan_iter("nextchar:stream:m:*")
    return {key.removeprefix("nextchar:stream:m:") for key in found}


def test_the_least_recently_used_streams_of_a_key_are_evicted_and_those_of_others_stay(redis: Redis) -> None:
    streams = Streams(redis, Limits(max_streams=400, max_bytes=1_000_000, owner_fraction=0.25))
    use(streams, "theirs", owner="b")
    use(streams, *map(str, range(30)), owner="a")
    use(streams, "0", owner="a")  # used again, so the last of these 30 to go
    use(streams, *map(str, range(30, 80)), owner="a")
    assert "theirs" in kept(redis) and "0" in kept(redis) and "1" not in kept(redis)
    use(streams, *map(str, range(80, 530)), owner="a")
    mine = kept(redis) - {"theirs"}
    assert mine == {str(i) for i in range(530 - len(mine), 530)}
    assert 50 < len(mine) < 250_000 // 4_000
    assert int(redis.hget("nextchar:streams:bytes", "key:a") or 0) <= 250_000
    with locked(streams, "m@1", "theirs", size=1000, owner=Owner("b")) as turn:
        assert turn.stream.restarted is None
    with locked(streams, "m@1", "1", size=1000, owner=Owner("a")) as turn:
        assert turn.stream.restarted == "new"


def test_the_number_of_streams_is_limited_in_total(redis: Redis) -> None:
    streams = Streams(redis, Limits(max_streams=20, owner_fraction=0.25))
    for owner in "abcdef":
        use(streams, *(f"{owner}{i}" for i in range(9)), owner=owner, numbers=2)
    assert kept(redis) == {f"{owner}{i}" for owner in "cdef" for i in range(4, 9)}
    assert redis.zcard("nextchar:streams") == redis.hlen("nextchar:streams:size") == 20
    assert redis.hlen("nextchar:streams:bytes") == 5 and not redis.exists("nextchar:streams:of:key:a")


def test_memory_of_redis_stays_about_within_the_bound(redis: Redis) -> None:
    def kept_bytes() -> int:
        memory = redis.info("memory")
        return int(memory["used_memory"] - memory["mem_aof_buffer"] - memory["mem_clients_normal"])

    before = kept_bytes()
    use(Streams(redis, Limits(max_bytes=2_000_000)), *map(str, range(500)), numbers=5_000)
    # Deleted streams are freed in the background.
    eventually(lambda: redis.info("memory")["lazyfree_pending_objects"] == 0, what="memory is freed")
    assert 1_000_000 < kept_bytes() - before < 3_000_000


def test_deleted_and_expired_streams_are_not_counted(redis: Redis) -> None:
    streams = Streams(redis)
    use(streams, "a", "b", "c", owner="k")
    assert streams.forget("m", "b")
    one = int(redis.hget("nextchar:streams:bytes", "all") or 0) / 2
    redis.delete("nextchar:stream:m:a")  # as if its time were over
    redis.zadd("nextchar:streams", {"nextchar:stream:m:a": 1e15})
    use(streams, "c", owner="another")
    assert redis.hgetall("nextchar:streams:bytes").keys() == {"all", "key:another"}
    assert int(redis.hget("nextchar:streams:bytes", "all") or 0) == pytest.approx(one, abs=20)
    assert redis.zrange("nextchar:streams", 0, -1) == ["nextchar:stream:m:c"]


def test_stream_larger_than_all_bounds_is_kept_while_it_is_the_last(redis: Redis) -> None:
    streams = Streams(redis, Limits(max_bytes=1_000))
    use(streams, "a")
    assert kept(redis) == {"a"}
    use(streams, "b")
    assert kept(redis) == {"b"}


@pytest.mark.parametrize(
    "stored",
    [
        {"state": base64.b64encode(PACKED), "change": base64.b64encode(PACKED)},
        {"state_f4": PACKED, "change_f4": PACKED},
        {"state_f4": PACKED, "change_f4": b""},
    ],
)
def test_streams_of_older_versions_continue_without_what_they_learned(
    redis: Redis, stored: dict[str, bytes]
) -> None:
    redis.hset("nextchar:stream:m:s", mapping={"model": "m@1", "lines": "7", **stored})
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.lines, turn.stream.restarted) == (7, None)
        np.testing.assert_array_equal(turn.stream.state, STATE)
        turn.save(STATE, lines=1)
    assert sorted(redis.hkeys("nextchar:stream:m:s")) == ["lines", "model", "state_f4"]


@pytest.mark.parametrize(
    "stored", [{"model": "m@1", "lines": "7"}, {"state_f4": PACKED}, {"model": "m@1", "state_f4": b""}]
)
def test_a_stream_without_a_model_or_a_state_restarts(redis: Redis, stored: dict[str, bytes]) -> None:
    redis.hset("nextchar:stream:m:s", mapping=stored)
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.state, turn.stream.lines, turn.stream.restarted) == (None, 0, "new")


def test_a_stream_without_a_number_of_lines_begins_to_count(redis: Redis) -> None:
    redis.hset("nextchar:stream:m:s", mapping={"model": "m@1", "state_f4": PACKED})
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.lines, turn.stream.restarted) == (0, None)


def test_a_call_waits_longer_than_the_lock_of_a_dead_process_lasts(redis: Redis) -> None:
    lock = Streams(redis).try_lock("m@1", "s", size=2)
    assert lock is not None
    assert 0 < redis.pttl("nextchar:stream-lock:m:s") <= (WAIT_S - 1) * 1000
    lock.release()


def test_a_lock_whose_call_redis_did_not_answer_is_released_once_it_does(tmp_path: Path) -> None:
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
            with locked(streams, "m@1", stream_id, size=2, wait_s=5) as turn:
                turn.save(STATE, lines=1)


@pytest.mark.parametrize(
    ("limits", "of_owner"),
    [
        (Limits(10, 1000, 0.25), (2, 250)),
        (Limits(10, 1000), (10, 1000)),
        (Limits(3, 1000, 0.1), (1, 100)),
        (Limits(7, 999, 0.5), (3, 499)),
    ],
)
def test_an_owner_has_its_fraction_of_the_limits_and_at_least_one_stream(
    limits: Limits, of_owner: tuple[int, int]
) -> None:
    assert limits.of_owner == of_owner


def test_limits_are_those_that_are_documented() -> None:
    assert Limits() == Limits(max_streams=10_000, max_bytes=64 * 1024**2, owner_fraction=1.0)
    assert not Owner().is_private


def test_a_stream_whose_lines_were_not_stored_begins_to_count(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        saved = turn.save(STATE, lines=3)
    assert (saved.id, saved.lines, saved.restarted) == ("s", 3, "new")
    redis.hdel("nextchar:stream:m:s", "lines")
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.lines, turn.stream.restarted) == (0, None)
        assert turn.save(STATE, lines=2).lines == 2
    redis.hdel("nextchar:stream:m:s", "state_f4")
    with locked(Streams(redis), "m@1", "s", size=2) as turn:
        assert (turn.stream.state, turn.stream.lines, turn.stream.restarted) == (None, 0, "new")


def test_a_process_can_end_while_it_holds_a_lock(redis: Redis) -> None:
    with locked(Streams(redis), "m@1", "s", size=2):
        assert {one.daemon for one in threading.enumerate() if one.name == "stream lock"} == {True}


def test_a_lock_is_released_after_redis_has_failed_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def release(_: Redis, key: str, token: str) -> bool:
        calls.append((key, token))
        if len(calls) < 4:
            raise RedisError
        return True

    monkeypatch.setattr("nextchar.app.scoring.streams.lease.release", release)
    monkeypatch.setattr("nextchar.app.scoring.streams._RELEASE_RETRY_S", 0.001)
    unreleased = _UnreleasedLocks(Redis())
    unreleased.add("key", "token")
    eventually(lambda: not unreleased._expire_at_s, what="the lock is released")
    assert calls == [("key", "token")] * 4


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
