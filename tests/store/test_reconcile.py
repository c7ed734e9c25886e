import errno
import time
from pathlib import Path

import pytest
from redis import Redis

from store.background import BackgroundLoop
from store.blobs import open_blobs
from store.jobs import Job, Jobs, JobStatus
from store.live import Live
from store.queue import TrainingQueue
from store.reconcile import MAXIMUM_FRUITLESS_ATTEMPTS, Reconciler
from tests.conftest import eventually
from tests.store.test_jobs import REQUEST

PATIENCE_S = 0.05


class World:
    """Records, Redis and a reconciler over them."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.blobs = open_blobs(folder.as_uri())
        self.jobs = Jobs(self.blobs)
        self.live = Live(Redis.from_url(redis_url, decode_responses=True))
        self.queue = TrainingQueue(Redis.from_url(redis_url))
        self.reconciler = self.new_reconciler()

    def running(self, **fields: int) -> Job:
        return self.jobs.move(self.jobs.create(REQUEST), JobStatus.RUNNING, attempt=1, **fields)

    def new_reconciler(self) -> Reconciler:
        return Reconciler(self.jobs, self.live, self.queue, patience_s=PATIENCE_S)

    def look_patiently(self) -> None:
        self.reconciler.run()
        time.sleep(PATIENCE_S)
        self.reconciler.run()


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str) -> World:
    return World(tmp_path, clean_redis_url)


def test_a_running_job_that_nobody_holds_is_queued_again(world: World) -> None:
    job = world.running()
    world.reconciler.run()
    assert world.jobs.get(job.id).status is JobStatus.RUNNING  # it may be on its way
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]


def test_a_queued_job_whose_message_was_lost_is_sent_again_once(world: World) -> None:
    job = world.jobs.create(REQUEST)
    world.look_patiently()
    world.look_patiently()
    assert world.queue.waiting() == [job.id]


def test_jobs_that_are_held_waiting_paused_or_over_are_left_alone(world: World) -> None:
    held, waiting = world.running(), world.jobs.create(REQUEST)
    world.live.hold(held.id, "me")
    world.queue.send(waiting)
    paused = world.jobs.move(world.running(), JobStatus.PAUSED)
    over = world.jobs.move(world.running(), JobStatus.SUCCEEDED)
    before = [world.jobs.get(job.id) for job in (held, waiting, paused, over)]
    world.look_patiently()
    assert [world.jobs.get(job.id) for job in (held, waiting, paused, over)] == before
    assert world.queue.waiting() == [waiting.id]


@pytest.mark.parametrize(("asked", "status"), [("cancel", JobStatus.CANCELLED), ("pause", JobStatus.PAUSED)])
def test_what_was_asked_of_a_lost_worker_is_done_for_it(world: World, asked: str, status: JobStatus) -> None:
    job = world.running()
    world.live.ask(job.id, asked)  # type: ignore[arg-type]
    world.look_patiently()
    assert world.jobs.get(job.id).status is status
    assert world.live.asked(job.id) is None
    assert world.queue.waiting() == []


def test_a_lost_job_whose_best_model_is_to_be_kept_gets_another_worker_that_is_asked_the_same(
    world: World,
) -> None:
    job = world.running()
    world.live.ask(job.id, "cancel_keep_best")
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]
    assert world.live.asked(job.id) == "cancel_keep_best"


def test_a_job_that_kills_its_workers_without_getting_further_fails_by_name(world: World) -> None:
    job = world.running(fruitless_attempts=MAXIMUM_FRUITLESS_ATTEMPTS)
    world.look_patiently()
    failed = world.jobs.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "worker_lost"


def test_two_reconcilers_send_a_lost_job_once(world: World) -> None:
    job = world.running()
    other = world.new_reconciler()
    other.run()
    world.look_patiently()
    other.run()
    assert world.queue.waiting() == [job.id]


def test_jobs_are_taken_up_again_after_the_process_has_run_out_of_file_descriptors(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(*_: object) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    job = world.running()
    with BackgroundLoop("reconciler", world.reconciler.run, interval_s=0.01) as loop:
        with monkeypatch.context() as patched:
            patched.setattr(type(world.blobs), "paths", out_of_descriptors)
            eventually(lambda: loop.status().errors.get("OSError", 0) > 1, within_s=10, what="it fails")
        eventually(lambda: world.queue.waiting() == [job.id], within_s=10, what="the job is queued again")
    assert world.jobs.get(job.id).status is JobStatus.QUEUED


def test_a_job_that_cannot_be_put_right_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.running(), world.running()
    move = Jobs.move

    def unless_first(self: Jobs, job: Job, *rest: object, **changes: object) -> Job:
        if job.id == first.id:
            raise OSError(errno.EMFILE, "Too many open files")
        return move(self, job, *rest, **changes)  # type: ignore[arg-type]

    world.reconciler.run()
    time.sleep(PATIENCE_S)
    monkeypatch.setattr(Jobs, "move", unless_first)
    with pytest.raises(OSError, match="Too many open files"):
        world.reconciler.run()
    assert world.queue.waiting() == [second.id]
