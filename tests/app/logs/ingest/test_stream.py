import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from nextchar.app.logs.ingest.kept_lines import lines_key
from nextchar.app.logs.ingest.records import Batch, Entry, IngestLimits, LineMeta, NewLine, Request
from nextchar.app.logs.ingest.stream import GROUP, MAX_DELIVERIES, IngestStreams
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.errors import Busy, Conflict, TooLarge, Unavailable


@pytest.fixture
def redis(raw_redis: Redis) -> Redis:
    return raw_redis


@pytest.fixture
def streams(redis: Redis) -> IngestStreams:
    return IngestStreams(redis, IngestLimits(max_lines=10))


def batch(*lines: str, model: str = "m", rejected: int = 0) -> Batch:
    return Batch(model, [NewLine(line.encode(), LineMeta(source="web")) for line in lines], rejected)


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def test_a_line_comes_out_as_it_went_in(streams: IngestStreams) -> None:
    meta = LineMeta(1.5, "web", "nightly", 0.05)
    before = time.time()
    streams.accept([Batch("m", [NewLine(b"a\xff\x00", meta), NewLine(b"", LineMeta())])])
    first, second = streams.read("m", "c", max_lines=10)
    assert (first.data, first.meta, second.data, second.meta) == (b"a\xff\x00", meta, b"", LineMeta())
    assert before - 1 < first.received_at < time.time() + 1


def test_each_line_is_delivered_to_one_consumer(streams: IngestStreams) -> None:
    streams.accept([batch("a", "b", "c")])
    first, second = streams.read("m", "one", max_lines=2), streams.read("m", "two", max_lines=2)
    assert [entry.data for entry in first + second] == [b"a", b"b", b"c"]
    assert streams.read("m", "one", max_lines=2) == []


def test_lines_of_a_dead_consumer_are_delivered_again(streams: IngestStreams) -> None:
    streams.accept([batch("a", "b")])
    lost = streams.read("m", "dead", max_lines=10)
    assert streams.claim("m", "alive", idle_s=60, max_lines=10) == []
    assert ids(streams.claim("m", "alive", idle_s=0, max_lines=10)) == ids(lost)


def test_only_the_first_acknowledgment_of_a_line_counts(streams: IngestStreams) -> None:
    streams.accept([batch("a", "b")])
    entries = ids(streams.read("m", "one", max_lines=10))
    assert streams.acknowledge("m", entries[:1]) == 1
    assert streams.acknowledge("m", entries) == 1
    assert (streams.waiting("m"), streams.status("m").counts["scored"]) == (0, 2)


def test_a_line_that_never_ends_is_delivered_alone_and_then_moved_away(
    streams: IngestStreams, redis: Redis
) -> None:
    streams.accept([batch("good", "bad", "fine")])
    by_line = {entry.data: entry.id for entry in streams.read("m", "1", max_lines=10)}
    assert len(streams.claim("m", "2", idle_s=0, max_lines=10)) == 3
    for delivery in range(3, 20):
        claimed = streams.claim("m", str(delivery), idle_s=0, max_lines=10)
        if not claimed:
            break
        assert len(claimed) == 1
        if claimed[0].data != b"bad":  # the process dies of this one
            streams.acknowledge("m", ids(claimed))
    status = streams.status("m")
    assert (status.waiting, status.counts["failed"], status.counts["scored"]) == (0, 1, 2)
    [(_, failed)] = redis.xrange("nextchar:ingest:m:failed")
    assert failed[b"line"] == b"bad" and failed[b"entry"].decode() == by_line[b"bad"]
    assert delivery > MAX_DELIVERIES


def test_limits_refuse_a_request_as_a_whole(streams: IngestStreams, redis: Redis) -> None:
    streams.accept([batch(*"abcdefgh")])
    with pytest.raises(Busy, match="8 lines wait to be scored by m"):
        streams.accept([batch("x", model="other"), batch("i", "j", "k")])
    assert (streams.waiting("m"), streams.waiting("other")) == (8, 0)
    with pytest.raises(TooLarge, match="11 lines"):
        streams.accept([batch(*"abcdefghijk", model="other")])
    small = IngestStreams(redis, IngestLimits(max_bytes=20_000))
    with pytest.raises(Busy, match=r"take .* bytes"):
        small.accept([batch("x" * 19_000, model="other")])


def test_a_repeated_request_counts_once_within_its_time(streams: IngestStreams, redis: Redis) -> None:
    request = Request("key", "body")
    assert not streams.accept([batch("a", "b")], request).is_repeated
    again = streams.accept([batch("a", "b")], request)
    assert (again.is_repeated, again.lines, streams.waiting("m")) == (True, 2, 2)
    with pytest.raises(Conflict, match="another body"):
        streams.accept([batch("a")], Request("key", "other"))
    assert 0 < redis.ttl("nextchar:ingest:request:key") <= 600


def test_dropped_lines_are_neither_scored_nor_announced(streams: IngestStreams) -> None:
    streams.accept([batch("a", "b")])
    taken = ids(streams.read("m", "one", max_lines=1))
    assert streams.drop("m") == 2
    assert streams.acknowledge("m", taken) == 0
    assert streams.flagged.announce("m", [(taken[0], {})]) == 0
    assert streams.claim("m", "two", idle_s=0, max_lines=10) == []
    streams.accept([batch("c")])
    assert [entry.data for entry in streams.read("m", "one", max_lines=10)] == [b"c"]
    assert streams.status("m").counts["dropped"] == 2


def test_lines_that_wait_for_too_long_expire(streams: IngestStreams) -> None:
    streams.accept([batch("a", "b")])
    assert streams.expire("m", before=time.time() - 60) == 0
    assert streams.expire("m", before=time.time() + 60) == 2
    status = streams.status("m")
    assert (status.waiting, status.counts["expired"], status.counts["scored"]) == (0, 2, 0)


def test_status_counts_what_waits_and_what_was_scored(streams: IngestStreams, redis: Redis) -> None:
    streams.accept([batch("a", "b", "c", "d", rejected=2)])
    received_at = streams.read("m", "one", max_lines=1)[0].received_at
    taken = ids(streams.read("m", "one", max_lines=2))
    assert streams.acknowledge("m", taken) == 2
    status = streams.status("m")
    counted = {name: count for name, count in status.counts.items() if count}
    assert counted == {"accepted": 4, "rejected": 2, "scored": 2}
    assert (status.waiting, status.bytes) == (2, redis.memory_usage(lines_key("m")))
    assert status.oldest_age_s is not None
    assert 0 <= status.oldest_age_s <= time.time() - received_at + 0.01


def test_accepted_lines_survive_the_death_of_redis(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as valkey, Redis.from_url(valkey.url, socket_timeout=60) as redis:
        streams = IngestStreams(redis)
        for i in range(3):
            streams.accept([batch(f"line {i}")], Request(f"key {i}", "body"))
        assert valkey._process is not None
        valkey._process.kill()
        valkey._process.wait()
        with pytest.raises((RedisConnectionError, OSError)):
            streams.accept([batch("lost")])
        valkey.start()
        assert streams.accept([batch("line 2")], Request("key 2", "body")).is_repeated
        found = [entry.data for entry in streams.read("m", "c", max_lines=10)]
        assert found == [b"line 0", b"line 1", b"line 2"]


def test_group_is_made_again_after_redis_lost_its_data(streams: IngestStreams, redis: Redis) -> None:
    streams.accept([batch("a")])
    redis.flushall()
    assert streams.read("m", "c", max_lines=1) == []
    streams.accept([batch("b")])
    assert [entry.data for entry in streams.read("m", "c", max_lines=1)] == [b"b"]
    assert redis.xinfo_groups(lines_key("m"))[0]["name"] == GROUP.encode()


def test_a_server_that_hangs_is_an_error_in_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        with Redis.from_url(url, socket_timeout=0.2) as redis, pytest.raises(RedisTimeoutError):
            IngestStreams(redis).accept([batch("a")])


def test_a_model_is_forgotten_once_no_line_of_it_waits(streams: IngestStreams, redis: Redis) -> None:
    streams.accept([batch("a"), batch("b", model="n")])
    streams.flagged.announce("m", [("1-1", {"line": "a"})])
    streams.set_problem("m", {"code": "c", "message": "m"})
    assert not streams.forget("m") and streams.waiting("m") == 1
    streams.acknowledge("m", ids(streams.read("m", "c", max_lines=1)))
    assert streams.forget("m") and streams.models() == ["n"] and streams.flagged.bytes() == {}
    assert [key for key in redis.keys("nextchar:ingest:m:*") if b":minute:" not in key] == []
    assert not streams.forget("m")
    assert streams.accept([batch("c")]) and streams.waiting("m") == 1


class Answering:
    """A Redis that gives these answers to the commands of one pipeline, and notes them."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.commands = answers, list[Sequence[Any]]()

    @contextlib.contextmanager
    def pipeline(self, *, transaction: bool) -> Iterator["Answering"]:
        assert not transaction, "WAITAOF does not wait in a transaction"
        yield self

    def eval(self, *arguments: object) -> None:
        self.commands.append(arguments)

    def execute_command(self, *arguments: object) -> None:
        self.commands.append(arguments)

    def execute(self, *, raise_on_error: bool) -> Sequence[object]:
        errors = [answer for answer in self.answers if isinstance(answer, Exception)]
        if raise_on_error and errors:
            raise errors[0]
        return self.answers


def accepting(*answers: object) -> tuple[IngestStreams, Answering]:
    redis = Answering(*answers)
    return IngestStreams(redis), redis  # type: ignore[arg-type]


def test_accepted_lines_are_on_the_disk_of_this_redis_within_five_seconds() -> None:
    streams, redis = accepting([b"accepted", 1], [1, 0])
    assert streams.accept([batch("a")]).lines == 1
    assert redis.commands[1] == ("WAITAOF", 1, 0, 5000)


def test_lines_that_are_not_on_the_disk_in_time_are_not_accepted() -> None:
    streams, _ = accepting([b"accepted", 1], [0, 0])
    with pytest.raises(Unavailable, match="with the same Idempotency-Key") as caught:
        streams.accept([batch("a")])
    assert caught.value.code == "ingest_not_durable"


def test_a_server_that_cannot_wait_for_the_disk_accepts_lines_and_other_errors_are_raised() -> None:
    streams, _ = accepting([b"accepted", 1], ResponseError("unknown command 'WAITAOF'"))
    assert streams.accept([batch("a")]).lines == 1
    for answers in (
        ([b"accepted", 1], RedisConnectionError("gone")),
        (RedisConnectionError("gone"), [1, 0]),
        (ResponseError("OOM command not allowed"), [1, 0]),
    ):
        with pytest.raises((RedisConnectionError, ResponseError), match=r"gone|OOM"):
            accepting(*answers)[0].accept([batch("a")])


def test_lines_that_are_still_worked_on_are_not_claimed_and_not_counted_as_delivered(
    streams: IngestStreams, redis: Redis
) -> None:
    streams.accept([batch("a", "b")])
    taken = ids(streams.read("m", "c", max_lines=2))
    for _ in range(3 * MAX_DELIVERIES):
        redis.xclaim(lines_key("m"), GROUP, "c", 0, taken, idle=100_000, justid=True)
        streams.keep("m", "c", taken)
    assert streams.claim("m", "d", idle_s=60, max_lines=10) == []
    redis.xclaim(lines_key("m"), GROUP, "c", 0, taken, idle=59_000, justid=True)
    assert streams.claim("m", "d", idle_s=60, max_lines=10) == []
    redis.xclaim(lines_key("m"), GROUP, "c", 0, taken, idle=61_000, justid=True)
    assert ids(streams.claim("m", "d", idle_s=60, max_lines=10)) == taken


@pytest.mark.parametrize("protocol", [2, 3])
def test_lines_are_read_by_either_protocol(clean_redis_url: str, protocol: int) -> None:
    with Redis.from_url(clean_redis_url, protocol=protocol) as redis:
        streams = IngestStreams(redis)
        streams.accept([batch("a", "b", "c")])
        assert [entry.data for entry in streams.read("m", "c", max_lines=2)] == [b"a", b"b"]
        assert [entry.data for entry in streams.read("m", "c", max_lines=2)] == [b"c"]
        assert streams.read("m", "c", max_lines=2) == []
        claimed = streams.claim("m", "d", idle_s=0, max_lines=2)
        assert [entry.data for entry in claimed] == [b"a", b"b"]


def test_as_many_lines_and_bytes_wait_by_default_as_is_documented() -> None:
    assert IngestLimits() == IngestLimits(max_lines=200_000, max_bytes=64 * 1024**2)
