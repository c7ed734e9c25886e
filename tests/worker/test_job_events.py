from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from models.config import NetworkConfig, TrainingConfig
from store.jobs import Job, JobRequest
from store.live import EventLog, Live
from store.open_blobs import open_blobs
from worker.job_events import JobEvents
from worker.settings import WorkerSettings

REQUEST = JobRequest(corpus="corpus_1", name="m", network=NetworkConfig(), training=TrainingConfig())


@pytest.fixture
def live(clean_redis_url: str) -> Live:
    return Live(Redis.from_url(clean_redis_url, decode_responses=True))


def job(*, attempt: int) -> Job:
    return Job(id="job_1", created_at=1, updated_at=1, request=REQUEST, attempt=attempt)


def test_events_continue_those_of_an_earlier_attempt(live: Live, tmp_path: Path) -> None:
    log, settings = EventLog(open_blobs(tmp_path.as_uri())), WorkerSettings(data_dir=tmp_path)
    first = JobEvents(job(attempt=1), live, log, settings)
    first.add_message("in storage")
    first.write()
    first.add_message("in Redis only")
    second = JobEvents(job(attempt=2), live, log, settings)
    second.load()
    second.add_message("of the second attempt")
    second.write()
    assert [event["data"]["text"] for event in log.read("job_1")] == ["in storage", "of the second attempt"]
    assert [event["id"] for event in log.read("job_1")] == [1, 3]
    assert [event["id"] for event in live.events("job_1")] == [1, 2, 3]


def test_events_that_redis_did_not_take_are_sent_with_the_next_one(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, settings = EventLog(open_blobs(tmp_path.as_uri())), WorkerSettings(data_dir=tmp_path)
    events = JobEvents(job(attempt=1), live, log, settings)

    def fail(*_: Any) -> None:
        raise RedisConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(live, "add_events", fail)
        events.add_message("first")
    assert live.events("job_1") == []
    events.add_message("second")
    assert [event["data"]["text"] for event in live.events("job_1")] == ["first", "second"]
