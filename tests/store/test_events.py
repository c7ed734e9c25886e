"""What the records of a storage say has happened."""

import math

import pytest

from nextchar.store.events import Events
from nextchar.store.jobs import Jobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.store.test_jobs import REQUEST


def test_a_record_may_be_new_unless_it_is_of_a_job_that_has_not_changed_since() -> None:
    blobs = open_blobs("memory:///")
    jobs = Jobs(blobs)
    events, job = Events(blobs, jobs, Models(blobs)), jobs.create(REQUEST)
    [path] = events.paths()
    assert events.may_be_since(path, job.updated_at)
    assert not events.may_be_since(path, job.updated_at + 1)


@pytest.mark.parametrize("path", ["jobs/job_deleted/1.json", "model_cards/a/1.json", "aliases/a/best/1.json"])
def test_a_record_whose_time_is_not_known_may_be_new(path: str) -> None:
    blobs = open_blobs("memory:///")
    assert Events(blobs, Jobs(blobs), Models(blobs)).may_be_since(path, math.inf)
