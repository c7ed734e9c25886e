"""Jobs run by real worker processes, and what becomes of them when those are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from models.config import Budget, NetworkConfig, TrainingConfig
from store.blobs import open_blobs
from store.corpora import Corpora, Upload
from store.jobs import Job, JobRequest, Jobs, JobStatus
from store.live import EventLog, Live
from store.models import Models
from store.queue import TrainingQueue
from store.reconcile import Reconciler
from tests.conftest import eventually

ROOT = Path(__file__).parents[2]
NETWORK = NetworkConfig(units=32, embedding=8)
TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 400


class World:
    """Storage, Redis, and workers that can be started and killed."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.redis_url = folder, redis_url
        self.blobs = open_blobs((folder / "store").as_uri())
        self.jobs, self.models = Jobs(self.blobs), Models(self.blobs)
        self.live = Live(Redis.from_url(redis_url, decode_responses=True))
        self.queue = TrainingQueue(Redis.from_url(redis_url))
        self.reconciler = Reconciler(self.jobs, self.live, self.queue)
        self.workers: list[subprocess.Popen[bytes]] = []
        with Upload(folder / "spool", limit_bytes=10**6) as upload:
            upload.feed(TEXT.encode())
            self.corpus, _ = Corpora(self.blobs).add(upload)

    def start_worker(self) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "NEXTCHAR_DATA_DIR": str(self.folder),
            "NEXTCHAR_REDIS_URL": self.redis_url,
            "NEXTCHAR_CHECKPOINT_SECONDS": "0.5",
        }
        worker = subprocess.Popen([sys.executable, "-m", "worker.main"], cwd=ROOT, env=environment)
        self.workers.append(worker)
        return worker

    def send(self, budget: Budget, *, name: str = "fox", corpus: str | None = None) -> Job:
        training = TrainingConfig(rows=8, window=32, budget=budget)
        job = self.jobs.create(
            JobRequest(corpus=corpus or self.corpus.id, name=name, network=NETWORK, training=training)
        )
        self.queue.send(job)
        return job

    def status(self, job: Job) -> JobStatus:
        """Where the job is now; the reconciler looks, as it does every few seconds in the API."""
        self.reconciler.run()
        return self.jobs.get(job.id).status

    def finished(self, job: Job, *, within_s: float = 60) -> Job:
        eventually(lambda: self.status(job).is_final, within_s=within_s, what=f"{job.id} is over")
        return self.jobs.get(job.id)

    def trained(self, job: Job, *, steps: int) -> None:
        def far_enough() -> bool:
            self.reconciler.run()
            progress = self.live.progress(job.id)
            return progress is not None and progress["step"] >= steps

        eventually(far_enough, within_s=60, what=f"{job.id} has done {steps} steps")

    def events(self, job: Job) -> list[dict[str, Any]]:
        return EventLog(self.blobs).read(job.id)


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str) -> Iterator[World]:
    world = World(tmp_path, clean_redis_url)
    yield world
    for worker in world.workers:
        worker.kill()
        worker.wait()


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_a_job_becomes_a_model_once_though_its_message_comes_twice(world: World) -> None:
    job = world.send(Budget(steps=150))
    world.queue.send(job.model_copy(update={"sequence": 99}))
    world.start_worker()
    done = world.finished(job)
    assert (done.status, done.model, done.attempt) == (JobStatus.SUCCEEDED, "fox@1", 1)
    eventually(lambda: not world.queue.waiting(), within_s=20, what="the second message is taken")
    assert [card.reference for card in world.models.all()] == ["fox@1"]
    saved = world.models.get("fox")
    report = saved.card.report
    assert report["validation_bits_per_character"] < report["baselines"]["unigram"]
    assert {"model.onnx", "model.keras"} <= set(saved.card.files)
    assert ("model.int8.onnx" in saved.card.files) == report["int8"]["kept"]
    assert abs(report["int8"]["lost_nats"]) < 0.2
    assert saved.file("model.onnx")
    events = world.events(job)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert {"metrics", "sample"} <= {event["type"] for event in events}
    assert done.progress is not None
    assert done.progress["step"] == 150
    assert world.blobs.paths("checkpoints") == []


def test_a_killed_worker_loses_nothing_and_changes_no_bit(world: World) -> None:
    worker = world.start_worker()
    whole = world.finished(world.send(Budget(steps=1200), name="whole"))
    job = world.send(Budget(steps=1200), name="broken")
    for steps in (200, 700):
        world.trained(job, steps=steps)
        children = _children(worker.pid)
        worker.kill()
        worker.wait()
        eventually(
            lambda pids=children: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids),
            within_s=10,
            what="the child died with its parent",
        )
        worker = world.start_worker()
        world.live.set_progress(job.id, {"step": 0})
    done = world.finished(job, within_s=90)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 3)
    hashes = [world.models.get(name).card.files["model.onnx"].sha256 for name in ("whole", "broken")]
    assert hashes[0] == hashes[1]
    assert whole.status is JobStatus.SUCCEEDED
    assert any("going on from the checkpoint" in str(event["data"]) for event in world.events(job))


def test_a_worker_told_to_stop_gives_its_job_back_at_once(world: World) -> None:
    worker = world.start_worker()
    job = world.send(Budget(seconds=30))
    world.trained(job, steps=20)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    given_back = world.jobs.get(job.id)
    assert given_back.status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]
    assert not world.live.is_held(job.id)
    assert world.blobs.paths(f"checkpoints/{job.id}")


@pytest.mark.parametrize(
    ("request_", "status"), [("cancel", JobStatus.CANCELLED), ("pause", JobStatus.PAUSED)]
)
def test_a_running_job_does_what_is_asked_of_it(world: World, request_: Any, status: JobStatus) -> None:
    world.start_worker()
    job = world.send(Budget(seconds=60))
    world.trained(job, steps=20)
    world.live.ask(job.id, request_)
    eventually(lambda: world.status(job) is status, within_s=15, what=f"the job is {status}")
    assert bool(world.blobs.paths("checkpoints")) == (status is JobStatus.PAUSED)
    assert world.models.all() == []


@pytest.mark.parametrize(
    ("breakage", "code"),
    [
        (lambda world: world.blobs.delete(f"corpora/{world.corpus.id}/corpus.json"), "corpus_not_found"),
        (lambda world: world.blobs.write(f"corpora/{world.corpus.id}/text", b"short"), "corpus_too_small"),
    ],
    ids=["corpus gone", "corpus too small"],
)
def test_a_job_that_cannot_be_done_fails_by_name(
    world: World, breakage: Callable[[World], None], code: str
) -> None:
    job = world.send(Budget(steps=10))
    breakage(world)
    world.start_worker()
    done = world.finished(job)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.code == code


def test_a_damaged_checkpoint_costs_some_steps_and_not_the_job(world: World) -> None:
    worker = world.start_worker()
    job = world.send(Budget(steps=1500))
    world.trained(job, steps=300)
    worker.kill()
    worker.wait()
    newest = world.blobs.paths(f"checkpoints/{job.id}")[-1]
    world.blobs.write(newest, b"\0" * 100)
    world.start_worker()
    assert world.finished(job).status is JobStatus.SUCCEEDED
    assert any("is damaged" in str(event["data"]) for event in world.events(job))
