"""What a client asks of a job at the moment in which its worker leaves it."""

from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from nextchar.app.jobs.control import JobControl
from nextchar.models.errors import Conflict, NotFound
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Job, JobError, JobRequest, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue
from tests.store.refusing import Refusing, unavailable
from tests.store.test_jobs import REQUEST
from tests.store.uploads import add

FULL = JobError(code="storage_full", message="the storage is full")
DIVERGED = JobError(code="diverged", message="the loss is not finite")


class LeftWhileAsked(Live):
    """Has the worker leave the job, just before the request could be seen."""

    def __init__(self, redis: Redis, jobs: Jobs, job: Job, to: JobStatus, **changes: Any) -> None:
        super().__init__(redis)
        self._leave = lambda: jobs.move(job, to, **changes)

    def request_stop(self, job_id: str, request: Any) -> None:
        self._leave()
        self._leave = lambda: pytest.fail("asked twice")
        super().request_stop(job_id, request)


class Desk:
    def __init__(self, folder: Path, redis_url: str) -> None:
        self.blobs = open_blobs(folder.as_uri())
        self.jobs = Jobs(self.blobs)
        self.redis = Redis.from_url(redis_url, decode_responses=True)
        self.queue = TrainingQueue(Redis.from_url(redis_url))
        self.live = Live(self.redis)
        self.job = self.jobs.move(self.jobs.create(REQUEST), JobStatus.RUNNING, attempt=1)

    def control(self, live: Live | None = None) -> JobControl:
        return JobControl(self.blobs, self.jobs, live or self.live, self.queue, self.redis)

    def left(self, to: JobStatus, **changes: Any) -> JobControl:
        return self.control(LeftWhileAsked(self.redis, self.jobs, self.job, to, **changes))


@pytest.fixture
def desk(tmp_path: Path, clean_redis_url: str) -> Desk:
    return Desk(tmp_path, clean_redis_url)


@pytest.mark.parametrize(
    ("to", "changes"),
    [(JobStatus.PAUSED, {"pause_reason": FULL}), (JobStatus.PAUSED, {}), (JobStatus.QUEUED, {})],
    ids=["for storage", "by its owner", "given back"],
)
def test_job_whose_worker_ends_during_a_request_is_changed_directly(
    desk: Desk, to: JobStatus, changes: dict[str, Any]
) -> None:
    cancelled = desk.left(to, **changes).cancel(desk.job.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert desk.jobs.get(desk.job.id) == cancelled
    assert desk.live.pending_stop(desk.job.id) is None


@pytest.mark.parametrize("changes", [{"pause_reason": FULL}, {}], ids=["for storage", "by its owner"])
def test_pause_of_a_job_that_is_paused_meanwhile_stands_and_is_not_asked_of_the_next_worker(
    desk: Desk, changes: dict[str, Any]
) -> None:
    paused = desk.left(JobStatus.PAUSED, **changes).pause(desk.job.id)
    assert (paused.status, paused.pause_reason) == (JobStatus.PAUSED, None)
    assert desk.live.pending_stop(desk.job.id) is None


def test_job_that_is_paused_while_its_best_model_is_asked_for_is_queued_to_make_it(desk: Desk) -> None:
    desk.left(JobStatus.PAUSED).cancel(desk.job.id, keep_best=True)
    assert desk.jobs.get(desk.job.id).status is JobStatus.QUEUED
    assert desk.live.pending_stop(desk.job.id) == "cancel_keep_best"


def test_pause_that_redis_could_not_forget_does_not_pause_a_resumed_job(desk: Desk) -> None:
    desk.live.request_stop(desk.job.id, "pause")
    desk.jobs.move(desk.job, JobStatus.PAUSED)
    assert desk.control().resume(desk.job.id).status is JobStatus.QUEUED
    assert desk.live.pending_stop(desk.job.id) is None


def request_of_a_new_corpus(desk: Desk, folder: Path) -> JobRequest:
    corpus, _ = add(Corpora(desk.blobs), folder, b"text")
    return REQUEST.model_copy(update={"corpus": corpus.id})


def test_a_job_whose_corpus_was_deleted_since_it_was_checked_is_not_recorded(
    desk: Desk, tmp_path: Path
) -> None:
    request = request_of_a_new_corpus(desk, tmp_path)
    job = desk.control().submit(request, key=None, body=b"")
    Corpora(desk.blobs).delete(request.corpus)
    with pytest.raises(NotFound) as refused:
        desk.control().submit(request, key=None, body=b"")
    assert refused.value.code == "corpus_not_found"
    assert {recorded.id for recorded in desk.jobs.all()} == {job.id, desk.job.id}


def test_a_job_that_is_recorded_is_queued_although_its_corpus_cannot_be_read_again(
    desk: Desk, tmp_path: Path
) -> None:
    request = request_of_a_new_corpus(desk, tmp_path)
    refusing = Refusing(desk.blobs, read=["corpora"], error=unavailable)
    control = JobControl(refusing, desk.jobs, desk.live, desk.queue, desk.redis)
    job = control.submit(request, key=None, body=b"")
    assert desk.jobs.get(job.id) == job


@pytest.mark.parametrize("request_name", ["cancel", "pause"])
def test_request_to_stop_a_job_that_has_just_failed_is_refused_and_forgotten(
    desk: Desk, request_name: str
) -> None:
    control = desk.left(JobStatus.FAILED, error=DIVERGED)
    with pytest.raises(Conflict) as caught:
        getattr(control, request_name)(desk.job.id)
    assert caught.value.code == "job_failed"
    assert desk.live.pending_stop(desk.job.id) is None


@pytest.mark.parametrize("request_", ["cancel", "cancel_keep_best"])
def test_request_that_came_when_a_job_had_failed_does_not_stop_the_resumed_job(
    desk: Desk, request_: Any
) -> None:
    desk.jobs.move(desk.job, JobStatus.FAILED, error=DIVERGED)
    desk.live.request_stop(desk.job.id, request_)  # by a process that was killed then
    assert desk.control().resume(desk.job.id).status is JobStatus.QUEUED
    assert desk.live.pending_stop(desk.job.id) is None
