import threading
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import Unavailable
from nextchar.store.jobs import Job, JobRequest
from nextchar.store.live import EventLog, Live
from nextchar.store.open_blobs import open_blobs
from nextchar.worker.job_events import JobEvents

REQUEST = JobRequest(corpus="corpus_1", name="m", network=NetworkConfig(), training=TrainingConfig())


@pytest.fixture
def live(redis: Redis) -> Live:
    return Live(redis)


def job(*, attempt: int) -> Job:
    return Job(id="job_1", created_at=1, updated_at=1, request=REQUEST, attempt=attempt)


def test_events_continue_those_of_an_earlier_attempt(live: Live, tmp_path: Path) -> None:
    log = EventLog(open_blobs(tmp_path.as_uri()))
    first = JobEvents(job(attempt=1), live, log)
    first.add_message("in storage")
    first.write()
    first.add_message("in Redis only")
    first.flush()
    second = JobEvents(job(attempt=2), live, log)
    second.load()
    second.add_message("of the second attempt")
    second.flush()
    second.write()
    assert [event["data"]["text"] for event in log.read("job_1")] == ["in storage", "of the second attempt"]
    assert [event["id"] for event in log.read("job_1")] == [1, 3]
    assert [event["id"] for event in live.events("job_1")] == [1, 2, 3]


def test_events_that_could_not_be_read_are_not_replaced(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(open_blobs(tmp_path.as_uri()))
    first = JobEvents(job(attempt=1), live, log)
    first.add_message("of the first attempt")
    first.flush()
    first.write()
    second = JobEvents(job(attempt=2), live, log)

    def fail(_: str) -> None:
        raise Unavailable("the storage does not work", code="storage_unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(log, "read", fail)
        for use in (second.load, second.write):
            with pytest.raises(Unavailable):
                use()
            second.add_message("meanwhile")
    second.flush()
    second.write()
    second.flush()
    assert log.read("job_1") == second.all == live.events("job_1")
    assert [event["data"]["text"] for event in second.all] == ["of the first attempt", *2 * ["meanwhile"]]
    assert [event["id"] for event in second.all] == [1, 2, 3]


def test_events_that_redis_did_not_take_are_sent_with_the_next_one(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(open_blobs(tmp_path.as_uri()))
    events = JobEvents(job(attempt=1), live, log)

    def fail(*_: Any) -> None:
        raise RedisConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(live, "add_events", fail)
        events.add_message("first")
        events.flush()
    assert live.events("job_1") == []
    events.add_message("second")
    events.flush()
    assert [event["data"]["text"] for event in live.events("job_1")] == ["first", "second"]


def test_events_that_redis_took_without_a_response_are_not_sent_again(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(open_blobs(tmp_path.as_uri()))
    events = JobEvents(job(attempt=1), live, log)
    add_events, sent = live.add_events, list[str]()

    def add_and_fail(job_id: str, added: list[dict[str, Any]]) -> None:
        add_events(job_id, added)
        sent.extend(event["data"]["text"] for event in added)
        if sent == ["first"]:
            raise RedisConnectionError

    monkeypatch.setattr(live, "add_events", add_and_fail)
    for text in ("first", "second", "third"):
        events.add_message(text)
        events.flush()
    assert sent == [event["data"]["text"] for event in live.events("job_1")] == ["first", "second", "third"]


def test_while_redis_hangs_events_wait_in_order_and_the_newest_progress_waits_with_them(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(open_blobs(tmp_path.as_uri()))
    events = JobEvents(job(attempt=1), live, log)
    add_events, may_respond, steps = live.add_events, threading.Event(), [*range(1, 101)]

    def hang(*arguments: Any) -> None:
        assert may_respond.wait(120)
        add_events(*arguments)

    monkeypatch.setattr(live, "add_events", hang)
    events.start()
    for step in steps:
        events.add("metrics", {"step": step})
        events.set_progress({"step": step})
    assert live.progress("job_1") is None
    may_respond.set()
    events.close()
    assert [event["data"]["step"] for event in live.events("job_1")] == steps
    assert live.progress("job_1") == {"step": 100}
