import json
import time
from typing import Any

import pytest
from redis import Redis

from nextchar.store.live import _MAX_KILLS, LEASE_S, EventLog, Live, add_message
from nextchar.store.open_blobs import open_blobs


@pytest.fixture
def live(redis: Redis) -> Live:
    return Live(redis)


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


def test_a_cancel_during_a_request_to_pause_stays(live: Live, clean_redis_url: str) -> None:
    class Interrupted(Redis):
        """Has another client cancel the job after its first command."""

        is_first = True

        def execute_command(self, *args: Any, **options: Any) -> Any:
            result = super().execute_command(*args, **options)
            if self.is_first:
                self.is_first = False
                live.request_stop("job_1", "cancel")
            return result

    with Interrupted.from_url(clean_redis_url, decode_responses=True) as redis:
        Live(redis).request_stop("job_1", "pause")
    assert live.pending_stop("job_1") == "cancel"


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


def test_the_last_kills_of_a_job_are_kept_oldest_first(live: Live) -> None:
    assert live.kills("job_1") == []
    for number in range(_MAX_KILLS + 3):
        live.add_kill("job_1", {"at": float(number), "signal": 9, "out_of_memory": False})
    assert [kill["at"] for kill in live.kills("job_1")] == [float(n) for n in range(3, _MAX_KILLS + 3)]


def test_an_attempt_is_counted_with_its_seconds_to_the_millisecond(live: Live) -> None:
    live.count_attempt("lost", code="worker_lost")
    live.count_attempt("failed", code="diverged", seconds=1.23456)
    assert live.attempts() == {("lost", "worker_lost"): (1, 0.0), ("failed", "diverged"): (1, 1.235)}


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


def test_the_event_log_has_one_event_per_line() -> None:
    blobs = open_blobs("memory:///")
    event = {"id": 1, "at": 1, "type": "message", "data": {"text": "é\n"}}
    EventLog(blobs).write("job_1", [event, event | {"id": 2}])
    lines = blobs.read("events/job_1.jsonl").split(b"\n")
    assert [json.loads(line)["id"] for line in lines[:-1]] == [1, 2] and lines[-1] == b""


@pytest.mark.parametrize("broken", [{"id": "1"}, {"at": "now"}, {"type": 3}, {"data": []}])
def test_an_event_with_a_field_of_another_type_is_none(broken: dict[str, object]) -> None:
    blobs = open_blobs("memory:///")
    event = {"id": 1, "at": 1.5, "type": "message", "data": {}}
    EventLog(blobs).write("job_1", [event | broken, event])
    assert EventLog(blobs).read("job_1") == [event]
