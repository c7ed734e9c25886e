"""Random programs of calls on streams of lines, which hold locks and die, against a plain model."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis import Redis

from nextchar.app.scoring.streams import Limits, Owner, StreamLock, Streams
from nextchar.models.errors import Conflict
from tests.state_machines import run

S = 3
LIMITS = Limits(max_streams=3, owner_fraction=0.7)  # two for each owner
IDS = st.sampled_from(("x", "y"))
MODELS = st.sampled_from(("m@1", "m@2", "n@1"))
OWNERS = st.sampled_from((Owner(), Owner("ann"), Owner("bob", is_private=True)))


@dataclass
class Stored:
    model: str
    state: list[float]
    lines: int
    owner: str


@dataclass
class Call:
    """A call that holds a lock, or believes so."""

    key: tuple[str, str, str]
    lock: StreamLock
    model: str
    owner: str
    is_lost: bool = False


class StreamMachine(RuleBasedStateMachine):
    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self.redis = Redis.from_url(redis_url, decode_responses=True)
        self.redis.flushall()
        self.streams = Streams(self.redis, LIMITS)
        self.stored: dict[tuple[str, str, str], Stored] = {}  # the least recently saved first
        self.calls: list[Call] = []

    @rule(model=MODELS, stream_id=IDS, owner=OWNERS)
    def begin(self, model: str, stream_id: str, owner: Owner) -> None:
        key = (owner.name if owner.is_private else "", model.partition("@")[0], stream_id)
        lock = self.streams.try_lock(model, stream_id, size=S, owner=owner)
        if any(call.key == key and not call.is_lost for call in self.calls):
            assert lock is None
            return
        assert lock is not None
        known, stream = self.stored.get(key), lock.stream
        if known is None:
            assert (stream.state, stream.lines, stream.restarted) == (None, 0, "new")
        elif known.model != model:
            assert (stream.state, stream.lines, stream.restarted) == (None, 0, "model_replaced")
        else:
            assert stream.state is not None and stream.state.tolist() == [known.state]
            assert (stream.lines, stream.restarted) == (known.lines, None)
        self.calls.append(Call(key, lock, model, owner.name))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), lines=st.integers(0, 3), value=st.integers(0, 9))
    def save(self, data: st.DataObject, lines: int, value: int) -> None:
        call = data.draw(st.sampled_from(self.calls))
        state = [float(value)] * S
        if call.is_lost:
            with pytest.raises(Conflict) as lost:
                call.lock.save(np.array([state], np.float32), lines=lines)
            assert lost.value.code == "stream_lost"
            return
        saved = call.lock.save(np.array([state], np.float32), lines=lines)
        assert saved.lines == call.lock.stream.lines + lines
        self.stored.pop(call.key, None)
        self.stored[call.key] = Stored(call.model, state, saved.lines, call.owner)
        self._evict(call)

    def _evict(self, call: Call) -> None:
        for limit, keys in (
            (LIMITS.of_owner[0], [k for k, one in self.stored.items() if one.owner == call.owner]),
            (LIMITS.max_streams, list(self.stored)),
        ):
            for key in keys[: max(0, sum(k in self.stored for k in keys) - limit)]:
                del self.stored[key]

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls))
        call.lock.release()
        self.calls.remove(call)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def lose_the_lock(self, data: st.DataObject) -> None:
        """The process of a call is suspended until its lock has expired."""
        call = data.draw(st.sampled_from(self.calls))
        if not call.is_lost:
            self.redis.delete(call.lock._keys[1])
            call.is_lost = True

    @rule(model=MODELS, stream_id=IDS, owner=OWNERS)
    def forget(self, model: str, stream_id: str, owner: Owner) -> None:
        key = (owner.name if owner.is_private else "", model.partition("@")[0], stream_id)
        assert self.streams.forget(model, stream_id, owner=owner) is (key in self.stored)
        self.stored.pop(key, None)

    @rule()
    def redis_is_emptied(self) -> None:
        self.redis.flushall()
        self.stored.clear()
        for call in self.calls:
            call.is_lost = True

    @invariant()
    def redis_counts_what_is_stored(self) -> None:
        assert self.redis.zcard("nextchar:streams") == len(self.stored) <= LIMITS.max_streams
        sizes: dict[str, str] = self.redis.hgetall("nextchar:streams:size")
        by_owner: dict[str, int] = {}
        for size in sizes.values():
            count, _, owner = size.partition(" ")
            by_owner[owner] = by_owner.get(owner, 0) + int(count)
        counted = {k: int(v) for k, v in self.redis.hgetall("nextchar:streams:bytes").items()}
        assert counted.pop("all", 0) == sum(by_owner.values())
        assert counted == by_owner

    def teardown(self) -> None:
        for call in self.calls:
            call.lock.release()  # ends the thread that renews it


def test_streams_are_as_a_plain_model_of_them_says(clean_redis_url: str) -> None:
    run(lambda: StreamMachine(clean_redis_url))
