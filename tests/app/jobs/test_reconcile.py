import errno
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from nextchar.app.jobs.reconcile import MAX_ATTEMPTS_WITHOUT_PROGRESS, MAX_STEPLESS_ATTEMPTS, Reconciler
from nextchar.models.errors import StorageFull
from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Job, JobError, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue
from tests.store.refusing import Refusing
from tests.store.test_jobs import REQUEST
from tests.waiting import eventually

PATIENCE_S = 4.0


class World:
    """Records, Redis and a reconciler over them."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.now_s = 1000.0
        self.blobs = open_blobs(folder.as_uri())
        self.jobs = Jobs(self.blobs)
        self.connections = Redis.from_url(redis_url, decode_responses=True), Redis.from_url(redis_url)
        self.live = Live(self.connections[0])
        self.queue = TrainingQueue(self.connections[1])
        self.reconciler = self.new_reconciler()

    def running(self, **fields: int) -> Job:
        return self.jobs.move(self.jobs.create(REQUEST), JobStatus.RUNNING, attempt=1, **fields)

    def new_reconciler(self) -> Reconciler:
        return Reconciler(self.jobs, self.live, self.queue, patience_s=PATIENCE_S)

    def suspect_for_long(self, job: Job) -> None:
        """Look at a job that has been without a worker for ten minutes."""
        self.reconciler._lost_since_s = {(job.id, job.sequence): self.now_s - 600}
        self.reconciler.run()

    def look_patiently(self) -> None:
        self.reconciler.run()
        self.now_s += PATIENCE_S
        self.reconciler.run()


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, clean_redis_url)
    clock = SimpleNamespace(monotonic=lambda: world.now_s, time=time.time)
    monkeypatch.setattr("nextchar.app.jobs.reconcile.time", clock)
    yield world
    for connection in world.connections:
        connection.close()


def test_a_running_job_without_a_lease_is_queued_again(world: World) -> None:
    job = world.running()
    world.reconciler.run()
    assert world.jobs.get(job.id).status is JobStatus.RUNNING  # it may be on its way
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]


def test_the_queue_is_arranged_so_that_keys_share_the_workers(world: World) -> None:
    mine = [world.jobs.create(REQUEST, created_by="a") for _ in range(3)]
    running = world.jobs.move(world.jobs.create(REQUEST, created_by="a"), JobStatus.RUNNING)
    world.live.acquire_lease(running.id, "me")
    other = world.jobs.create(REQUEST, created_by="b")
    for job in (*mine, other):
        world.queue.enqueue(job)
    world.reconciler.run()
    assert world.queue.waiting() == [other.id, *(job.id for job in mine)]


def test_a_queued_job_whose_message_was_lost_is_sent_again_once(world: World) -> None:
    job = world.jobs.create(REQUEST)
    world.look_patiently()
    world.look_patiently()
    assert world.queue.waiting() == [job.id]


def test_leased_waiting_paused_and_ended_jobs_are_not_changed(world: World) -> None:
    held, waiting = world.running(), world.jobs.create(REQUEST)
    world.live.acquire_lease(held.id, "me")
    world.queue.enqueue(waiting)
    paused = world.jobs.move(world.running(), JobStatus.PAUSED)
    over = world.jobs.move(world.running(), JobStatus.SUCCEEDED)
    before = [world.jobs.get(job.id) for job in (held, waiting, paused, over)]
    world.look_patiently()
    assert [world.jobs.get(job.id) for job in (held, waiting, paused, over)] == before
    assert world.queue.waiting() == [waiting.id]


@pytest.mark.parametrize(("asked", "status"), [("cancel", JobStatus.CANCELLED), ("pause", JobStatus.PAUSED)])
def test_a_stop_request_to_a_lost_worker_is_applied(world: World, asked: str, status: JobStatus) -> None:
    job = world.running()
    world.live.request_stop(job.id, asked)  # type: ignore[arg-type]
    world.look_patiently()
    assert world.jobs.get(job.id).status is status
    assert world.live.pending_stop(job.id) is None
    assert world.queue.waiting() == []


def test_a_cancel_during_the_pause_of_a_lost_job_is_applied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.running()
    world.live.request_stop(job.id, "pause")
    move = Jobs.move

    def ask_and_move(self: Jobs, *arguments: Any, **changes: Any) -> Job:
        world.live.request_stop(job.id, "cancel")
        return move(self, *arguments, **changes)

    monkeypatch.setattr(Jobs, "move", ask_and_move)
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.CANCELLED


def test_a_lost_job_with_cancel_keep_best_is_queued_with_the_request_pending(world: World) -> None:
    job = world.running()
    world.live.request_stop(job.id, "cancel_keep_best")
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]
    assert world.live.pending_stop(job.id) == "cancel_keep_best"


@pytest.mark.parametrize(
    ("counts", "where"),
    [
        ({"stepless_attempts": MAX_STEPLESS_ATTEMPTS - 1}, "5 times before its first step"),
        (
            {"attempts_without_progress": MAX_ATTEMPTS_WITHOUT_PROGRESS - 1},
            "20 times before its next checkpoint",
        ),
    ],
)
def test_a_job_without_progress_is_paused_with_a_reason_and_keeps_its_checkpoint(
    world: World, counts: dict[str, int], where: str
) -> None:
    job = world.running(**counts)
    world.jobs.blobs.write(f"checkpoints/{job.id}/0000000000.npz", b"")
    world.suspect_for_long(job)
    paused = world.jobs.get(job.id)
    assert paused.status is JobStatus.PAUSED
    assert paused.pause_reason is not None
    assert paused.pause_reason.code == "worker_lost"
    assert where in paused.pause_reason.message
    assert "memory" not in paused.pause_reason.message
    assert world.jobs.checkpoint_step(job.id) == 0
    assert paused.pause_reason.message in str(world.live.events(job.id))
    world.look_patiently()  # only its owner can make it go on
    assert world.jobs.get(job.id) == paused


def test_memory_is_named_only_where_the_kernel_counted_a_kill_for_want_of_it(world: World) -> None:
    job = world.running(stepless_attempts=MAX_STEPLESS_ATTEMPTS - 1)
    for n in range(MAX_STEPLESS_ATTEMPTS):
        world.live.add_kill(job.id, {"at": 1.0, "signal": 9, "out_of_memory": n == 0})
    world.suspect_for_long(job)
    reason = world.jobs.get(job.id).pause_reason
    assert reason is not None
    assert "was killed 5 times (signal 9) before its first step; the kernel ran out of memory" in (
        reason.message
    )


def test_attempts_count_against_a_job_only_if_they_came_no_further(world: World) -> None:
    counts = {"stepless_attempts": 2, "attempts_without_progress": 2}
    for step, checkpoint, expected in ((None, None, (3, 3)), (9, None, (0, 3)), (9, 7, (0, 0))):
        job = world.running(**counts)
        if step is not None:
            world.live.set_progress(job.id, {"step": step, "attempt": 1})
        if checkpoint is not None:
            world.jobs.blobs.write(f"checkpoints/{job.id}/{checkpoint:010d}.npz", b"")
        world.suspect_for_long(job)
        queued = world.jobs.get(job.id)
        assert queued.status is JobStatus.QUEUED
        assert (queued.stepless_attempts, queued.attempts_without_progress) == expected


def test_a_job_that_loses_worker_after_worker_is_restarted_ever_more_slowly(world: World) -> None:
    job = world.running(stepless_attempts=3)
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.RUNNING
    world.suspect_for_long(job)
    assert world.jobs.get(job.id).status is JobStatus.QUEUED


def test_a_job_is_not_lost_while_redis_refuses_writes(world: World, clean_redis_url: str) -> None:
    job = world.running()
    world.reconciler.run()
    world.now_s += PATIENCE_S
    with Redis.from_url(clean_redis_url) as redis:
        redis.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(RedisError):
                world.reconciler.run()
        finally:
            redis.config_set("min-replicas-to-write", 0)
    world.reconciler.run()  # its worker has yet to renew the lease
    assert world.jobs.get(job.id).status is JobStatus.RUNNING
    world.look_patiently()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED


def paused_for_storage(world: World, *, ago_s: float = 3600, **fields: Any) -> Job:
    reason = JobError(code="storage_full", message="the storage is full")
    fields = {"pause_reason": reason, "storage_pauses": 1} | fields
    return world.jobs.move(world.running(), JobStatus.PAUSED, updated_at=time.time() - ago_s, **fields)


def test_a_job_paused_for_storage_is_queued_with_a_message_when_there_is_room(world: World) -> None:
    job = paused_for_storage(world)
    world.reconciler.run()
    queued = world.jobs.get(job.id)
    assert (queued.status, queued.pause_reason) == (JobStatus.QUEUED, None)
    assert world.queue.waiting() == [job.id]
    assert "storage works again" in str(world.live.events(job.id))
    assert world.jobs.blobs.paths("probe") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"pause_reason": None},
        {"pause_reason": JobError(code="worker_lost", message="")},
        {"needed_bytes": 1 << 60},
        {"ago_s": 1.0},
        {"ago_s": 100.0, "storage_pauses": 20},
    ],
    ids=[
        "paused by its owner",
        "paused for another reason",
        "not enough room",
        "just now",
        "again and again",
    ],
)
def test_jobs_paused_for_other_reasons_stay_paused(world: World, fields: dict[str, Any]) -> None:
    job = paused_for_storage(world, **fields)
    world.reconciler.run()
    assert world.jobs.get(job.id) == job


def test_a_job_that_waits_for_storage_does_not_wait_for_a_clock_that_was_set_back(world: World) -> None:
    job = paused_for_storage(world, ago_s=-7200.0)
    world.reconciler.run()
    assert world.jobs.get(job.id).status is JobStatus.QUEUED


def test_a_job_stays_paused_while_the_storage_refuses_writes(world: World, clean_redis_url: str) -> None:
    job = paused_for_storage(world)
    jobs = Jobs(Refusing(world.jobs.blobs, write=("probe",)))
    Reconciler(jobs, world.live, world.queue).run()
    assert world.jobs.get(job.id) == job


def test_two_reconcilers_send_a_lost_job_once(world: World) -> None:
    job = world.running()
    other = world.new_reconciler()
    other.run()
    world.look_patiently()
    other.run()
    assert world.queue.waiting() == [job.id]


def test_the_reconciler_recovers_after_running_out_of_file_descriptors(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(*_: object) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    job = world.running()

    def run() -> None:
        world.now_s += PATIENCE_S / 2
        world.reconciler.run()

    with BackgroundLoop("reconciler", run, interval_s=0.01) as loop:
        with monkeypatch.context() as patched:
            patched.setattr(type(world.blobs), "paths", out_of_descriptors)
            eventually(lambda: loop.status().errors.get("OSError", 0) > 1, what="it fails")
        eventually(lambda: world.queue.waiting() == [job.id], what="the job is queued again")
    assert world.jobs.get(job.id).status is JobStatus.QUEUED


def test_an_error_with_one_lost_job_does_not_delay_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.running(), world.running()
    move = Jobs.move

    def unless_first(self: Jobs, job: Job, *rest: object, **changes: object) -> Job:
        if job.id == first.id:
            raise OSError(errno.EMFILE, "Too many open files")
        return move(self, job, *rest, **changes)  # type: ignore[arg-type]

    world.reconciler.run()
    world.now_s += PATIENCE_S
    monkeypatch.setattr(Jobs, "move", unless_first)
    with pytest.raises(OSError, match="Too many open files"):
        world.reconciler.run()
    assert world.queue.waiting() == [second.id]


def test_an_error_with_one_record_does_not_delay_other_jobs(world: World) -> None:
    stuck, paused, lost = paused_for_storage(world), paused_for_storage(world), world.running()
    jobs = Jobs(Refusing(world.blobs, write=(f"jobs/{stuck.id}",)))
    reconciler = Reconciler(jobs, world.live, world.queue, patience_s=PATIENCE_S)
    for _ in range(2):
        with pytest.raises(StorageFull):
            reconciler.run()
        world.now_s += PATIENCE_S
    assert set(world.queue.waiting()) == {paused.id, lost.id}
    assert world.jobs.get(stuck.id) == stuck
