import threading
import time

import numpy as np
import pytest
from redis import Redis

from models.errors import Conflict
from store.streams import TTL_S, Streams
from tests.conftest import eventually

STATE = np.array([[0.5, -1.5]], np.float32)


@pytest.fixture
def redis(clean_redis_url: str) -> Redis:
    return Redis.from_url(clean_redis_url, decode_responses=True)


def test_state_comes_back_through_any_process(redis: Redis) -> None:
    with Streams(redis).turn("m@1", "s", size=2) as turn:
        assert (turn.stream.state, turn.stream.restarted, turn.stream.lines) == (None, "new", 0)
        turn.save(STATE, lines=3, change=np.ones((2, 4), np.float32))
    with Streams(redis).turn("m@1", "s", size=2) as turn:
        np.testing.assert_array_equal(turn.stream.state, STATE)
        assert (turn.stream.restarted, turn.stream.lines) == (None, 3)
        assert turn.stream.change is not None and turn.stream.change.tolist() == [1] * 8
    assert 0 < redis.ttl("nextchar:stream:m:s") <= TTL_S


@pytest.mark.parametrize(("model", "size"), [("m@2", 2), ("m@1", 3)])
def test_another_model_begins_anew_and_says_so(redis: Redis, model: str, size: int) -> None:
    with Streams(redis).turn("m@1", "s", size=2) as turn:
        turn.save(STATE, lines=1)
    with Streams(redis).turn(model, "s", size=size) as turn:
        assert (turn.stream.state, turn.stream.restarted) == (None, "model_replaced")


def test_turns_come_one_after_the_other(redis: Redis) -> None:
    entered = threading.Event()

    def second() -> None:
        with Streams(redis).turn("m@1", "s", size=2) as turn:
            entered.set()
            turn.save(STATE, lines=1)

    with Streams(redis).turn("m@1", "s", size=2) as turn:
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.1)
        turn.save(STATE, lines=1)
    thread.join(5)
    assert redis.hget("nextchar:stream:m:s", "lines") == "2"


def test_who_waits_too_long_is_told(redis: Redis) -> None:
    with Streams(redis).turn("m@1", "s", size=2):
        with pytest.raises(Conflict) as caught, Streams(redis).turn("m@1", "s", size=2, wait_s=0.05):
            pytest.fail("two turns at once")
        assert caught.value.code == "stream_busy"
        with Streams(redis).turn("m@1", "other", size=2):
            pass


def test_a_turn_that_was_lost_changes_nothing(redis: Redis) -> None:
    with Streams(redis).turn("m@1", "s", size=2) as turn:
        redis.set("nextchar:stream-lock:m:s", "somebody else")
        with pytest.raises(Conflict) as caught:
            turn.save(STATE, lines=1)
    assert caught.value.code == "stream_lost"
    assert not redis.exists("nextchar:stream:m:s")
    assert redis.get("nextchar:stream-lock:m:s") == "somebody else"


def test_turns_end_when_their_block_fails(redis: Redis) -> None:
    with pytest.raises(ZeroDivisionError), Streams(redis).turn("m@1", "s", size=2):
        raise ZeroDivisionError
    eventually(lambda: not redis.exists("nextchar:stream-lock:m:s"), within_s=1, what="the lock is gone")


def test_forgotten_streams_begin_anew(redis: Redis) -> None:
    streams = Streams(redis)
    with streams.turn("m@1", "s", size=2) as turn:
        turn.save(STATE, lines=1)
    assert streams.forget("m", "s") and not streams.forget("m", "s")


def test_a_long_turn_keeps_its_lock(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.streams._LOCK_S", 1)
    with Streams(redis).turn("m@1", "s", size=2) as turn:
        time.sleep(1.6)
        turn.save(STATE, lines=1)
    assert redis.hget("nextchar:stream:m:s", "lines") == "1"


def test_no_stream_is_another_ones_lock(redis: Redis) -> None:
    with Streams(redis).turn("m@1", "s:lock", size=2) as turn:
        turn.save(STATE, lines=1)
    with Streams(redis).turn("m@1", "s", size=2, wait_s=0.0) as turn:
        assert turn.stream.lines == 0
