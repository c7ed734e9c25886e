"""One attempt at a job, in this process: how it ends, and what it does while the storage does not work."""

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from redis import Redis

from nextchar.app.jobs.reconcile import Reconciler
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput, NotFound, Unavailable
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue
from nextchar.worker import attempt as attempt_module
from nextchar.worker import tasks
from nextchar.worker.attempt import Attempt
from nextchar.worker.checkpoints import Checkpoint, Checkpoints
from nextchar.worker.hooks import ScratchFull
from nextchar.worker.settings import WorkerSettings
from tests.store.refusing import Refusing, full, unavailable
from tests.store.test_models import FILES
from tests.store.test_models import _card as card
from tests.waiting import eventually

NETWORK = NetworkConfig(units=32, embedding=8)


def trained(attempt: Attempt, *, stopped: str | None = None) -> Any:
    """Return the outcome of training that has come to step 7."""
    attempt._save(Checkpoint(7, {}, {"step": 7}))
    attempt._set_progress({"step": 7})
    return SimpleNamespace(stopped=stopped, card=card("fox"), files=FILES)


class ResourceExhaustedError(Exception):
    """As TensorFlow's, by its name."""


class Desk:
    """One attempt at a job, run in this process, at training that is over at once."""

    def __init__(self, folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attempt_module, "_QUICK_RETRIES_S", (0.0, 0.0))
        monkeypatch.setattr(attempt_module, "_MAX_RETRY_S", 0.2)
        monkeypatch.setattr(attempt_module, "_MAX_SHUTDOWN_RETRY_S", 0.1)
        monkeypatch.setattr(attempt_module, "MAX_SAVING_FRACTION", float("inf"))  # no wait after a failure
        self.monkeypatch = monkeypatch
        self.storage = Refusing(open_blobs((folder / "store").as_uri()))
        self.blobs = self.storage.blobs
        self.jobs, self.models = Jobs(self.blobs), Models(self.blobs)
        redis = Redis.from_url(redis_url, decode_responses=True)
        self.live, self.queue = Live(redis), TrainingQueue(Redis.from_url(redis_url))
        self.reconciler = Reconciler(self.jobs, self.live, self.queue, patience_s=0)
        self.settings = WorkerSettings(data_dir=folder, redis_url=redis_url)
        training = TrainingConfig(budget=Budget(steps=7))
        request = JobRequest(corpus="corpus_1", name="fox", network=NETWORK, training=training)
        self.job = self.jobs.create(request)
        self.outcomes = 0

    @property
    def now(self) -> Job:
        return self.jobs.get(self.job.id)

    @property
    def messages(self) -> list[str]:
        return [event["data"]["text"] for event in self.live.events(self.job.id)]

    def attempt(
        self, outcome: Callable[[Attempt], Any], *, meanwhile: Callable[[Attempt], None] | None = None
    ) -> Attempt:
        """Take the job, have `outcome` for training, and do `meanwhile` while it waits for storage."""

        def train(attempt: Attempt, resume: Any) -> Any:
            self.outcomes += 1
            return outcome(attempt)

        self.monkeypatch.setattr(Attempt, "_outcome", train)
        token = "me"
        assert self.live.acquire_lease(self.job.id, token)
        attempt = tasks._acquire_job(self.job.id, self.settings, self.live, self.storage, token)
        assert attempt is not None
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self._when_waiting, attempt, meanwhile) if meanwhile else None
            attempt.run()
            if done:
                done.result()
        self.live.release_lease(self.job.id, token)
        return attempt

    def attempt_after_wait(self, outcome: Callable[[Attempt], Any] = trained) -> None:
        """Have the reconciler look when the job has waited long enough, and take the job again."""
        self.monkeypatch.setattr("nextchar.app.jobs.reconcile._FIRST_STORAGE_WAIT_S", 0.0)
        self.reconciler.run()
        assert self.now.status is JobStatus.QUEUED
        self.attempt(outcome)

    def _when_waiting(self, attempt: Attempt, meanwhile: Callable[[Attempt], None]) -> None:
        eventually(
            lambda: "waiting_for_storage" in (self.live.progress(self.job.id) or {}),
            what="the attempt says that it waits for storage",
        )
        meanwhile(attempt)


def cannot_train(error: Exception) -> Callable[[Attempt], Any]:
    def outcome(attempt: Attempt) -> Any:
        attempt._save(Checkpoint(3, {}, {"step": 3}))
        attempt._set_progress({"step": 3})
        raise error

    return outcome


@pytest.fixture
def desk(tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, clean_redis_url, monkeypatch)


def test_progress_names_the_part_of_the_evaluation_until_the_job_ends(desk: Desk) -> None:
    phases = []

    def evaluated(attempt: Attempt) -> Any:
        outcome = trained(attempt)
        for phase in ("int8 weights", ""):
            attempt._begin_phase(phase)
            phases.append((attempt._progress or {})["phase"])
        return outcome

    desk.attempt(evaluated)
    assert phases == ["int8 weights", "evaluation"]
    assert desk.now.progress is not None and desk.now.progress["phase"] is None


def test_attempts_are_counted_and_progress_has_checkpoint_and_memory(desk: Desk) -> None:
    began = time.time()
    desk.storage.refuse_writes("model_files")
    desk.attempt(trained)
    progress = desk.live.progress(desk.job.id)
    assert progress is not None and began <= progress["checkpoint_at"] <= time.time()
    assert progress["peak_memory_bytes"] > 1 << 20
    desk.storage.refuse_writes()
    desk.attempt_after_wait()
    counted = desk.live.attempts()
    assert {key: count for key, (count, _) in counted.items()} == {
        ("paused", "storage_full"): 1,
        ("succeeded", ""): 1,
    }
    assert all(0 <= seconds < 60 for _, seconds in counted.values())


@pytest.mark.parametrize("error", [full, unavailable])
def test_a_model_that_cannot_be_published_pauses_its_job_and_keeps_the_checkpoint(
    desk: Desk, error: Callable[[], Exception]
) -> None:
    desk.storage.error = error
    desk.storage.refuse_writes("model_files")
    desk.attempt(trained)
    paused = desk.now
    assert (paused.status, paused.error, paused.waits_for_storage) == (JobStatus.PAUSED, None, True)
    assert paused.pause_reason is not None
    assert paused.pause_reason.message in str(error())
    assert paused.needed_bytes >= sum(map(len, FILES.values()))
    assert desk.jobs.checkpoint_step(desk.job.id) == 7
    assert "continues when the storage works" in desk.messages[-1]
    desk.storage.refuse_writes()
    desk.attempt_after_wait()
    assert (desk.now.status, desk.now.model, desk.now.pause_reason) == (JobStatus.SUCCEEDED, "fox@1", None)
    assert desk.blobs.paths("checkpoints") == []


def test_storage_that_fails_for_a_moment_pauses_nothing(desk: Desk) -> None:
    refusals = iter([full(), unavailable()])

    def outcome(attempt: Attempt) -> Any:
        for error in refusals:
            raise error
        return trained(attempt)

    desk.attempt(outcome)
    assert (desk.now.status, desk.now.attempt, desk.outcomes) == (JobStatus.SUCCEEDED, 1, 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_scratch_folder_that_fails_pauses_the_job(desk: Desk, number: int) -> None:
    desk.attempt(cannot_train(OSError(number, os.strerror(number))))
    assert desk.now.waits_for_storage
    assert desk.jobs.checkpoint_step(desk.job.id) == 3


def test_a_scratch_folder_that_is_too_small_pauses_the_job_until_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(_: Attempt) -> Any:
        raise ScratchFull(Path("/data/scratch"), needed_bytes=5_000_000_000, free_bytes=1_000)

    desk.attempt(outcome)
    paused = desk.now
    assert desk.outcomes == 1, "another attempt a second later has no more room"
    assert paused.pause_reason is not None and paused.pause_reason.code == "storage_full"
    assert "5,000,000,000 bytes in /data/scratch, where 1,000 are free" in paused.pause_reason.message
    assert paused.needed_bytes == 5_000_000_000
    monkeypatch.setattr("nextchar.app.jobs.reconcile._FIRST_STORAGE_WAIT_S", 0.0)
    monkeypatch.setattr(type(desk.blobs), "free_bytes", lambda _: 5_000_000_000)
    desk.reconciler.run()
    assert desk.now == paused
    monkeypatch.setattr(type(desk.blobs), "free_bytes", lambda _: 6_000_000_000)
    desk.attempt_after_wait()
    assert desk.now.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("it diverged", code="diverged"), "diverged"),
        (NotFound("the corpus is gone", code="corpus_not_found"), "corpus_not_found"),
        (Unavailable("the corpus is damaged", code="corpus_damaged"), "corpus_damaged"),
        (MemoryError(), "out_of_memory"),
        (ResourceExhaustedError("OOM when allocating tensor"), "out_of_memory"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
def test_other_errors_fail_the_job_and_keep_its_checkpoint(desk: Desk, error: Exception, code: str) -> None:
    desk.attempt(cannot_train(error))
    failed = desk.now
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, code)
    assert desk.jobs.checkpoint_step(desk.job.id) == 3


def test_checkpoint_that_cannot_be_read_pauses_the_job_and_is_kept(desk: Desk) -> None:
    Checkpoints(desk.blobs, desk.job.id).save(Checkpoint(5, {}, {"step": 5}))
    desk.storage.refused["stream"] = {"checkpoints"}
    desk.attempt(trained)
    assert (desk.now.waits_for_storage, desk.outcomes) == (True, 0)
    assert desk.jobs.checkpoint_step(desk.job.id) == 5


def test_checkpoint_that_cannot_be_kept_does_not_stop_training(desk: Desk) -> None:
    desk.storage.refuse_writes("checkpoints")
    desk.attempt(trained)
    assert (desk.now.status, desk.now.model) == (JobStatus.SUCCEEDED, "fox@1")
    assert sum("no checkpoint at step 7" in text for text in desk.messages) == 1


def test_a_worker_keeps_its_job_until_its_record_is_stored(desk: Desk) -> None:
    def make_room(attempt: Attempt) -> None:
        assert desk.live.has_lease(desk.job.id)
        assert desk.now.status is JobStatus.RUNNING
        desk.storage.refuse_writes()

    desk.storage.refuse_writes("jobs", "events", "model_files", "checkpoints")
    # The record that says running is written before.
    desk.storage.refused["create"] = set()

    def outcome(attempt: Attempt) -> Any:
        desk.storage.refuse_writes("jobs", "events", "model_files", "checkpoints")
        return trained(attempt)

    desk.attempt(outcome, meanwhile=make_room)
    # What it had learned was in no storage: it was stored before the job was left.
    assert desk.now.waits_for_storage
    assert desk.jobs.checkpoint_step(desk.job.id) == 7
    assert any("waiting for storage" in text for text in desk.messages)
    assert "waiting_for_storage" not in (desk.live.progress(desk.job.id) or {})


@pytest.mark.parametrize(
    ("asked", "status", "kept"), [("cancel", JobStatus.CANCELLED, False), ("pause", JobStatus.PAUSED, True)]
)
def test_a_worker_waiting_for_storage_applies_stop_requests(
    desk: Desk, asked: Any, status: JobStatus, kept: bool
) -> None:
    def ask(attempt: Attempt) -> None:
        desk.live.request_stop(desk.job.id, asked)
        attempt._renew_lease()
        desk.storage.refuse_writes()

    def outcome(attempt: Attempt) -> Any:
        desk.storage.refuse_writes("jobs", "events", "model_files", "checkpoints")
        return trained(attempt)

    desk.attempt(outcome, meanwhile=ask)
    assert (desk.now.status, desk.now.pause_reason) == (status, None)
    assert (desk.jobs.checkpoint_step(desk.job.id) is not None) == kept


def test_a_worker_waiting_for_storage_stops_on_shutdown(desk: Desk) -> None:
    def outcome(attempt: Attempt) -> Any:
        desk.storage.refuse_writes("jobs", "events", "model_files")
        return trained(attempt)

    desk.attempt(outcome, meanwhile=lambda attempt: attempt._shutdown.set())
    assert desk.now.status is JobStatus.RUNNING
    assert not desk.live.has_lease(desk.job.id)
    desk.reconciler.run()
    assert desk.now.status is JobStatus.QUEUED
    assert desk.jobs.checkpoint_step(desk.job.id) == 7


def test_cancel_that_keeps_the_best_is_still_to_be_done_after_a_wait_for_storage(desk: Desk) -> None:
    desk.live.request_stop(desk.job.id, "cancel_keep_best")

    def outcome(attempt: Attempt) -> Any:
        attempt._renew_lease()
        return trained(attempt, stopped="cancel_keep_best")

    desk.storage.refuse_writes("model_files")
    desk.attempt(outcome)
    assert desk.now.waits_for_storage
    desk.storage.refuse_writes()
    desk.attempt_after_wait(outcome)
    assert (desk.now.status, desk.now.model) == (JobStatus.CANCELLED, "fox@1")
    assert desk.live.pending_stop(desk.job.id) is None


@pytest.mark.parametrize("why", ["storage", "owner"])
@pytest.mark.parametrize(
    ("asked", "status", "left"),
    [("cancel", JobStatus.CANCELLED, None), ("cancel_keep_best", JobStatus.QUEUED, "cancel_keep_best")],
)
def test_a_cancel_during_a_pause_is_applied(
    desk: Desk, why: str, asked: Any, status: JobStatus, left: str | None
) -> None:
    write_record = Attempt._write_record

    def ask_and_write(attempt: Attempt, *arguments: Any) -> Job:
        desk.live.request_stop(desk.job.id, asked)  # the record says running, so the API only asks
        return write_record(attempt, *arguments)

    desk.monkeypatch.setattr(Attempt, "_write_record", ask_and_write)
    if why == "storage":
        desk.storage.refuse_writes("model_files")
        desk.attempt(trained)
    else:
        desk.attempt(lambda attempt: trained(attempt, stopped="pause"))
    assert desk.live.pending_stop(desk.job.id) == left
    if desk.now.waits_for_storage:
        assert asked == "cancel_keep_best"  # which is done when the storage works again
    else:
        assert desk.now.status is status


def saves(*steps: int, error: Exception | None = None) -> Callable[[Attempt], Any]:
    """Save checkpoints of steps; then raise the error, or end."""

    def outcome(attempt: Attempt) -> Any:
        for step in steps:
            attempt._save(Checkpoint(step, {"weight/0": np.zeros(1000, np.float32)}, {"step": step}))
        attempt._set_progress({"step": 9})
        if error:
            raise error
        return SimpleNamespace(stopped=None, card=card("fox"), files=FILES)

    return outcome


@pytest.mark.parametrize(
    ("asked", "status", "model"),
    [
        ("pause", JobStatus.SUCCEEDED, "fox@1"),
        ("cancel_keep_best", JobStatus.SUCCEEDED, "fox@1"),
        ("cancel", JobStatus.CANCELLED, None),
    ],
)
@pytest.mark.parametrize("stopped", [None, "cancel_keep_best"])
def test_of_requests_that_come_while_the_model_is_evaluated_a_cancel_is_applied(
    desk: Desk, asked: Any, status: JobStatus, model: str | None, stopped: str | None
) -> None:
    def outcome(attempt: Attempt) -> Any:
        ended = trained(attempt, stopped=stopped)
        desk.live.request_stop(desk.job.id, asked)  # after training has last looked
        return ended

    desk.attempt(outcome)
    expected = JobStatus.CANCELLED if stopped else status
    assert (desk.now.status, desk.now.model) == (expected, model)
    assert bool(desk.blobs.paths("model_cards")) == (model is not None)
    assert desk.live.pending_stop(desk.job.id) is None


def test_a_request_that_was_withdrawn_stops_nothing(desk: Desk) -> None:
    stops = []

    def outcome(attempt: Attempt) -> Any:
        for asked in ("pause", None):
            if asked:
                desk.live.request_stop(desk.job.id, "pause")
            else:
                desk.live.acknowledge_stop(desk.job.id)
            attempt._renew_lease()
            stops.append(attempt._stop_reason())
        return trained(attempt)

    desk.attempt(outcome)
    assert stops == ["pause", None]


def test_a_record_that_was_written_although_the_storage_failed_is_not_written_again(desk: Desk) -> None:
    create, failures = desk.blobs.create, iter([unavailable()])

    def create_and_fail(path: str, data: bytes) -> bool:
        created = create(path, data)
        if b'"succeeded"' in data:
            for error in failures:
                raise error
        return created

    desk.monkeypatch.setattr(desk.blobs, "create", create_and_fail)
    desk.attempt(trained)
    assert (desk.now.status, desk.now.model, desk.now.sequence) == (JobStatus.SUCCEEDED, "fox@1", 2)
    assert desk.live.attempts().keys() == {("succeeded", "")}
    assert desk.blobs.paths("checkpoints") == []


@pytest.mark.parametrize("is_failing", [False, True])
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.FAILED])
def test_a_record_of_another_process_is_not_taken_for_that_of_this_one(
    desk: Desk, status: JobStatus, is_failing: bool
) -> None:
    create, failures = desk.blobs.create, iter([unavailable()] * is_failing)
    moved: list[Job] = []

    def another_first(path: str, data: bytes) -> bool:
        if b'"paused"' in data:
            if not moved:
                moved.append(desk.jobs.move(desk.now, status))
            for error in failures:
                raise error
        return create(path, data)

    desk.monkeypatch.setattr(desk.blobs, "create", another_first)
    desk.attempt(lambda attempt: trained(attempt, stopped="pause"))
    assert desk.now == moved[0]
    assert desk.live.attempts() == {}, "the other process counts it"


def test_training_makes_no_call_of_redis(desk: Desk) -> None:
    callers: list[threading.Thread] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def note_and_call(*arguments: Any) -> Any:
            callers.append(threading.current_thread())
            return call(*arguments)

        return note_and_call

    for name in ("add_events", "last_event", "set_progress"):
        desk.monkeypatch.setattr(desk.live, name, noted(getattr(desk.live, name)))
    has_called: list[bool] = []

    def outcome(attempt: Attempt) -> Any:
        callers.clear()
        for step in range(1, 8):
            attempt._events.add("metrics", {"step": step})
            attempt._save(Checkpoint(step, {}, {"step": step}))
            attempt._set_progress({"step": step})
        has_called.append(threading.current_thread() in callers)
        return SimpleNamespace(stopped=None, card=card("fox"), files=FILES)

    desk.attempt(cannot_train(full()))
    desk.attempt_after_wait(outcome)
    assert has_called == [False]
    events, progress = desk.live.events(desk.job.id), desk.live.progress(desk.job.id)
    assert [event["id"] for event in events] == [*range(1, len(events) + 1)]
    assert [event["data"]["step"] for event in events if event["type"] == "metrics"] == [*range(1, 8)]
    assert progress and progress["step"] == 7


@pytest.mark.parametrize("folder", ["events", "checkpoints"])
def test_reading_what_the_last_attempt_stored_is_tried_again(desk: Desk, folder: str) -> None:
    desk.attempt(saves(5, error=InvalidInput("it diverged", code="diverged")))
    desk.jobs.move(desk.now, JobStatus.QUEUED)
    failed: set[str] = set()

    def failing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def once(*arguments: Any, **options: Any) -> Any:
            if str(arguments[0]).startswith(folder) and not failed:
                failed.add(name)
                raise unavailable()
            return call(*arguments, **options)

        return once

    for name in ("read", "stream", "read_range"):
        desk.monkeypatch.setattr(desk.blobs, name, failing(name, getattr(desk.blobs, name)))
    desk.attempt(trained)
    assert (desk.now.status, desk.now.attempt) == (JobStatus.SUCCEEDED, 2)
    assert len(failed) == 1 and any("from the checkpoint of step 5" in text for text in desk.messages)


def test_checkpoints_that_fail_slowly_take_a_tenth_of_the_time(desk: Desk) -> None:
    desk.monkeypatch.setattr(attempt_module, "MAX_SAVING_FRACTION", 0.1)
    now_s, failed_s, saved = 0.0, 0.0, list[int]()
    clock = SimpleNamespace(monotonic=lambda: now_s, time=time.time, sleep=time.sleep)
    desk.monkeypatch.setattr(attempt_module, "time", clock)
    has_recovered = False

    def save(checkpoint: Checkpoint) -> None:
        nonlocal now_s, failed_s
        if not has_recovered:
            now_s, failed_s = now_s + 16, failed_s + 16
            raise unavailable()
        saved.append(checkpoint.step)

    def outcome(attempt: Attempt) -> Any:
        nonlocal now_s, has_recovered
        desk.monkeypatch.setattr(attempt.checkpoints, "save", save)
        while now_s < 1000:
            now_s += 10
            attempt._save(Checkpoint(int(now_s), {}, {"step": int(now_s)}))
        assert attempt._unsaved is not None
        unsaved.append(attempt._unsaved.step)
        has_recovered = True
        for now_s in (1001, 1200, 1201):
            attempt._save(Checkpoint(now_s, {}, {"step": now_s}))
        return trained(attempt)

    unsaved: list[int] = []
    desk.attempt(outcome)
    assert desk.now.status is JobStatus.SUCCEEDED
    assert 0 < failed_s <= 0.1 * 1000 + 16
    assert 990 <= unsaved[0] <= 1016, "the newest one is kept to be saved at the end"
    assert saved == [1200, 1201, 7]
