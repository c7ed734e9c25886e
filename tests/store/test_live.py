import json
import time

import pytest
from redis import Redis

from store.live import LEASE_S, EventLog, Live
from store.open_blobs import open_blobs


@pytest.fixture
def live(clean_redis_url: str) -> Live:
    return Live(Redis.from_url(clean_redis_url, decode_responses=True))


def test_only_the_holder_renews_a_lease(live: Live) -> None:
    assert not live.has_lease("job_1")
    assert live.acquire_lease("job_1", "me")
    assert not live.acquire_lease("job_1", "you")
    assert live.acquire_lease("job_1", "me")
    live.release_lease("job_1", "you")
    assert live.has_lease("job_1")
    live.release_lease("job_1", "me")
    assert live.acquire_lease("job_1", "you")


def test_a_lease_runs_out(live: Live, clean_redis_url: str) -> None:
    live.acquire_lease("job_1", "me")
    with Redis.from_url(clean_redis_url) as redis:
        assert 0 < redis.ttl("nextchar:job:job_1:lease") <= LEASE_S


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


def test_progress_is_the_newest(live: Live) -> None:
    assert live.progress("job_1") is None
    live.set_progress("job_1", {"step": 1})
    live.set_progress("job_1", {"step": 2, "sample": "é"})
    assert live.progress("job_1") == {"step": 2, "sample": "é"}


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


def test_what_is_no_event_in_a_log_does_not_hide_the_others() -> None:
    blobs = open_blobs("memory:///")
    event = {"id": 1, "at": 1, "type": "message", "data": {}}
    lines = [b"", b"3", b'{"id": "a"}', b"[" * 100_000, b"\xff", json.dumps(event).encode(), b'{"id": 2']
    blobs.write("events/job_1.jsonl", b"\n".join(lines))
    assert EventLog(blobs).read("job_1") == [event]


def test_ended_attempts_are_counted_by_outcome_and_code(live: Live) -> None:
    assert live.attempts() == {}
    live.count_attempt("succeeded", seconds=1.5)
    live.count_attempt("succeeded", seconds=2.25)
    live.count_attempt("failed", code="diverged", seconds=60)
    assert live.attempts() == {("succeeded", ""): (2, 3.75), ("failed", "diverged"): (1, 60.0)}
