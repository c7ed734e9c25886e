"""Early models in the storage: they exist while the record of their job says so."""

import pytest

from nextchar.models.errors import NotFound
from nextchar.models.saved_model import Card
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import EarlyModel, Job, Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.store.test_jobs import REQUEST
from tests.store.test_models import FILES, _card


@pytest.fixture
def blobs() -> Blobs:
    return open_blobs("memory:///")


def early_card(job: Job) -> Card:
    return _card().model_copy(update={"name": REQUEST.name, "job": job.id, "report": {"is_early": True}})


def written(blobs: Blobs, *, is_noted: bool = True) -> Job:
    """Return a running job that has written an early model."""
    jobs = Jobs(blobs)
    job = jobs.move(jobs.create(REQUEST), JobStatus.RUNNING, attempt=1)
    Models(blobs).early.write(job, early_card(job), FILES)
    return jobs.move(job, JobStatus.RUNNING, early=EarlyModel(attempt=1, since=1.0)) if is_noted else job


def test_what_a_killed_worker_has_written_is_no_model_until_the_record_names_it(blobs: Blobs) -> None:
    job, early = written(blobs, is_noted=False), Models(blobs).early
    reference = f"{REQUEST.name}@{job.id}"
    assert [early.resolve(name) for name in (REQUEST.name, reference)] == [None, None]
    with pytest.raises(NotFound, match="no early model"):
        early.get(reference)
    Jobs(blobs).move(job, JobStatus.RUNNING, early=EarlyModel(attempt=1, since=1.0))
    assert [early.resolve(name) for name in (REQUEST.name, reference)] == [reference, reference]
    saved = early.get(reference)
    assert saved.card.reference == reference
    assert {name: bytes(saved.mapped(name)) for name in saved.card.files} == FILES


@pytest.mark.parametrize("end", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_an_early_model_ends_with_the_record_of_its_job(blobs: Blobs, end: JobStatus) -> None:
    job, early = written(blobs), Models(blobs).early
    assert early.sweep() == 0
    ended = Jobs(blobs).move(job, end, model="m@1" if end is JobStatus.SUCCEEDED else None)
    assert ended.early is None
    assert early.resolve(f"{REQUEST.name}@{job.id}") == ended.model
    assert early.resolve(REQUEST.name) is None
    assert early.sweep() == len(FILES) + 1
    assert blobs.paths("early_models") == []


def test_a_waiting_job_keeps_its_early_model_and_its_end_deletes_no_later_attempt(blobs: Blobs) -> None:
    jobs, early = Jobs(blobs), Models(blobs).early
    job = written(blobs)
    queued = jobs.move(job, JobStatus.QUEUED)
    assert queued.early == job.early and early.sweep() == 0
    failed = jobs.move(jobs.move(queued, JobStatus.RUNNING, attempt=2), JobStatus.FAILED)
    again = jobs.move(jobs.move(failed, JobStatus.QUEUED), JobStatus.RUNNING, attempt=3)
    early.write(again, early_card(again), FILES)
    early.delete(failed)  # the worker of attempt 2, after the job was resumed
    assert {path.split("/")[3] for path in blobs.paths("early_models")} == {"3"}


@pytest.mark.parametrize("reference", ["../x", "a@job_", "a@job_00000000000000", "model_1", ""])
def test_other_references_mean_no_early_model(blobs: Blobs, reference: str) -> None:
    written(blobs)
    assert Models(blobs).early.resolve(reference) is None


def test_a_model_of_a_job_of_another_name_is_none(blobs: Blobs) -> None:
    job = written(blobs)
    assert Models(blobs).early.resolve(f"other@{job.id}") is None
