"""A job's events from two sources."""

from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.http.event_streams import NewEvents
from nextchar.app.jobs import schemas as job_events
from nextchar.app.jobs.schemas import JobEventSource, events_so_far
from nextchar.store.jobs import Job, JobStatus
from tests.store.test_jobs import REQUEST


def event(number: int, source: str = "") -> dict[str, Any]:
    return {"id": number, "type": "message", "source": source}


class FakeLog:
    """The log in storage, or the events in Redis: `events` is what there is, and may grow."""

    def __init__(self, *numbers: int, source: str = "", is_down: bool = False) -> None:
        self.found = [event(number, source) for number in numbers]
        self.is_down = is_down

    def read(self, _: str) -> list[dict[str, Any]]:
        return self.found

    def events(self, _: str, *, after: int) -> list[dict[str, Any]]:
        if self.is_down:
            raise RedisConnectionError
        return [e for e in self.found if e["id"] > after]


def job(status: JobStatus) -> Job:
    return Job(id="job_1", status=status, created_at=0, updated_at=0, request=REQUEST)


def test_events_of_log_and_redis_are_one_sequence_without_duplicates() -> None:
    log, live = FakeLog(1, 2, 3, source="log"), FakeLog(3, 5, 4, source="redis")
    found = events_so_far(log, live, "job_1", after=1)  # type: ignore[arg-type]
    assert [e["id"] for e in found] == [2, 3, 4, 5]


def test_without_redis_the_logs_events_are_returned() -> None:
    found = events_so_far(FakeLog(1, 2), FakeLog(3, is_down=True), "job_1", after=0)  # type: ignore[arg-type]
    assert [e["id"] for e in found] == [1, 2]


def test_polling_gets_new_events_and_ends_with_the_final_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_events, "_RECORD_POLL_S", 0.0)
    log, live = FakeLog(1), FakeLog(1, 2)
    statuses = iter([JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED])

    def get(_: str) -> Job:
        status = next(statuses)
        if status is JobStatus.SUCCEEDED:
            log.found = [event(n) for n in (1, 2, 3, 4)]  # the last events come with the final record
        else:
            live.found.append(event(3))
        return job(status)

    jobs = SimpleNamespace(get=get)
    source = JobEventSource(jobs, log, live, "job_1")  # type: ignore[arg-type]
    assert source.last_number() == 2
    assert [number for number, _ in source.read(0, 1)] == [1]
    assert [number for number, _ in source.poll(2).events] == [3]
    live.is_down = True
    assert source.poll(3) == NewEvents()
    news = source.poll(3)
    assert [number for number, _ in news.events] == [4]
    assert isinstance(news.end, Job) and news.end.status is JobStatus.SUCCEEDED
