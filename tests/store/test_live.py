import time

import pytest
from redis import Redis

from nextchar.store.live import EventLog, Live, add_message
from nextchar.store.open_blobs import open_blobs


@pytest.fixture
def live(redis: Redis) -> Live:
    return Live(redis)


def test_a_redis_that_accepts_writes_keeps_nothing_of_the_check_for_long(
    live: Live, clean_redis_url: str
) -> None:
    live.check_writable()
    with Redis.from_url(clean_redis_url) as redis:
        [key] = redis.keys()
        assert 0 < redis.ttl(key) <= 60


def test_a_cancel_outranks_a_pause(live: Live) -> None:
    live.request_stop("job_1", "pause")
    assert live.pending_stop("job_1") == "pause"
    live.request_stop("job_1", "cancel")
    live.request_stop("job_1", "pause")
    assert live.pending_stop("job_1") == "cancel"
    live.acknowledge_stop("job_1", "pause")  # which is not what is asked now
    assert live.pending_stop("job_1") == "cancel"
    live.acknowledge_stop("job_1", "cancel")
    assert live.pending_stop("job_1") is None
    live.request_stop("job_1", "cancel_keep_best")
    live.request_stop("job_1", "pause")
    assert live.pending_stop("job_1") == "cancel_keep_best"
    live.acknowledge_stop("job_1")
    live.request_stop("job_1", "pause")
    live.acknowledge_stop("job_1")
    assert live.pending_stop("job_1") is None


def test_events_are_read_from_a_number_on(live: Live) -> None:
    assert (live.last_event("job_1"), live.events("job_1")) == (0, [])
    events = [{"id": n, "at": time.time(), "type": "message", "data": {"text": str(n)}} for n in (1, 2, 5)]
    live.add_events("job_1", events)
    assert live.last_event("job_1") == 5
    assert live.events("job_1") == events
    assert live.events("job_1", after=2) == events[2:]


def test_the_event_log_returns_what_was_written() -> None:
    log = EventLog(open_blobs("memory:///"))
    assert log.read("job_1") == []
    texts = ["two\nlines", "one"]
    events = [
        {"id": number, "at": 1.5, "type": "message", "data": {"text": text}}
        for number, text in enumerate(texts, 1)
    ]
    log.write("job_1", events)
    assert log.read("job_1") == events


def test_a_message_follows_the_newest_event_of_log_and_redis(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.store.live.time.time", lambda: 5.00049)
    log = EventLog(open_blobs("memory:///"))
    add_message(live, log, "job_1", "first")
    first = {"id": 1, "at": 5.0, "type": "message", "data": {"text": "first"}}
    assert log.read("job_1") == live.events("job_1") == [first]
    add_message(live, log, "job_1", "second")
    assert [event["id"] for event in log.read("job_1")] == [1, 2]
    live.add_events("job_1", [first | {"id": 7}])
    add_message(live, log, "job_1", "third")
    assert [event["id"] for event in log.read("job_1")] == [1, 2, 8]
    log.write("job_2", [first | {"id": 4}, first | {"id": 9}])
    add_message(live, log, "job_2", "after the log's")
    assert [event["id"] for event in log.read("job_2")] == [4, 9, 10]
    assert [event["id"] for event in live.events("job_2")] == [10]
