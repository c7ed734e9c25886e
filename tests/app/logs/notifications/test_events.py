"""What the records of a storage say has happened."""

import pytest

from nextchar.app.logs.notifications.events import Events
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.store.test_jobs import REQUEST


def test_an_event_is_read_unless_it_was_before_a_time() -> None:
    blobs = open_blobs("memory:///")
    jobs = Jobs(blobs)
    events, job = Events(blobs, jobs, Models(blobs)), jobs.move(jobs.create(REQUEST), JobStatus.CANCELLED)
    path = events.paths()[-1]
    event = events.read(path)
    assert event and event.types == ("job.cancelled", "fine_tuning.job.cancelled")
    assert events.read(path, since=job.updated_at) == event
    assert events.read(path, since=job.updated_at + 1) is None


@pytest.mark.parametrize("path", ["jobs/job_deleted/1.json", "model_cards/a/1.json", "aliases/a/best/1.json"])
def test_a_record_that_is_gone_is_no_event(path: str) -> None:
    blobs = open_blobs("memory:///")
    assert Events(blobs, Jobs(blobs), Models(blobs)).read(path, since=0.0) is None
