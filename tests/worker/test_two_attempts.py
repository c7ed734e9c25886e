"""A trainer that stands still, and wakes when another has taken its job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.live import Live
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import attempt as attempt_module
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.hooks import Hooks
from tests.every_call import Call, every_call
from tests.waiting import eventually
from tests.worker import fake_training

REQUEST = JobRequest(corpus="corpus_1", name="m", network=NetworkConfig(), training=TrainingConfig())


class World:
    """One job that is running, and what its attempts need."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.redis_url = folder, redis_url
        self.blobs: Blobs = open_blobs((folder / "store").as_uri())
        self.jobs, self.models = Jobs(self.blobs), Models(self.blobs)
        self.job = self.jobs.move(self.jobs.create(REQUEST), JobStatus.RUNNING, attempt=1)

    def run(self, job: Job, blobs: Blobs) -> None:
        token = f"attempt {job.attempt}"
        fake_training.attempt(job, self.jobs, blobs, self.redis_url, folder=self.folder, token=token).run()

    def take_lease(self, token: str) -> None:
        Redis.from_url(self.redis_url).set(f"nextchar:job:{self.job.id}:lease", token)

    def succeed(self) -> None:
        """Take the job as the reconciler and another worker do, and end it."""
        self.take_lease("attempt 2")
        queued = self.jobs.move(self.jobs.get(self.job.id), JobStatus.QUEUED)
        self.run(self.jobs.move(queued, JobStatus.RUNNING, attempt=2), self.blobs)
        Redis.from_url(self.redis_url).delete(f"nextchar:job:{self.job.id}:lease")


def test_of_two_attempts_at_a_job_one_publishes_wherever_the_first_is_suspended(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in every_call(more_than=5):
        world = World(tmp_path / str(call.at), clean_redis_url)
        call.is_armed = False

        def train(job: Job, _: dict[str, Any], *, call: Call = call) -> Mapping[str, bytes]:
            call.is_armed = True  # from here on it publishes
            return {"model.onnx": b"by attempt %d" % job.attempt, "report.json": b"{}"}

        fake_training.use(train, monkeypatch)
        world.run(world.job, call.blobs(world.blobs, world.succeed))
        [card] = world.models.all()
        for name in card.files:
            world.models.get(card.reference).file(name)
        assert len(world.blobs.paths("model_files")) == 2  # what the other attempt wrote is gone
        job = world.jobs.get(world.job.id)
        assert (job.status, job.model) == (JobStatus.SUCCEEDED, card.reference), call


def test_an_attempt_without_the_lease_publishes_nothing(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, clean_redis_url)

    def train(*_: object) -> Mapping[str, bytes]:
        world.take_lease("another")
        return {"model.onnx": b"mine"}

    fake_training.use(train, monkeypatch)
    world.run(world.job, world.blobs)
    assert world.models.all() == [] and world.blobs.paths("model_files") == []
    assert world.jobs.get(world.job.id) == world.job  # whoever has the lease moves it


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.CANCELLED])
def test_an_attempt_whose_job_was_restarted_stops_at_its_next_checkpoint(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch, status: JobStatus
) -> None:
    world = World(tmp_path, clean_redis_url)
    stops = []

    def train(job: Job, hooks: Hooks) -> Mapping[str, bytes]:
        moved = world.jobs.move(job, status)  # by the reconciler, while it stood still
        stops.append(hooks.stop())
        hooks.checkpoint(Checkpoint(7, {}, {"step": 7}))
        stops.append(hooks.stop())
        assert world.jobs.get(job.id) == moved
        return {"model.onnx": b"not to be published"}

    fake_training.use(train, monkeypatch)
    world.run(world.job, world.blobs)
    assert stops == [None, "shutdown"]
    assert world.blobs.paths("checkpoints") == []
    assert world.models.all() == []


@pytest.mark.parametrize("is_renamed", [True, False])
def test_a_model_that_was_renamed_or_deleted_is_not_published_again(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch, is_renamed: bool
) -> None:
    world = World(tmp_path, clean_redis_url)

    def train(job: Job, _: dict[str, Any]) -> Mapping[str, bytes]:
        if job.attempt == 1:
            world.succeed()
            world.models.rename("m", "other") if is_renamed else world.models.delete("m")
        return {"model.onnx": b"by attempt %d" % job.attempt}

    fake_training.use(train, monkeypatch)
    world.run(world.job, world.blobs)
    assert [card.reference for card in world.models.all()] == (["other@1"] if is_renamed else [])
    assert len(world.blobs.paths("model_files")) == is_renamed
    if is_renamed:
        assert world.models.get("other").file("model.onnx") == b"by attempt 2"


def test_an_attempt_renews_its_lease_and_stops_once_another_has_it(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "RENEW_S", 0.01)
    world = World(tmp_path, clean_redis_url)
    redis, lease = Redis.from_url(clean_redis_url), f"nextchar:job:{world.job.id}:lease"

    def train(job: Job, hooks: Hooks) -> Mapping[str, bytes]:
        redis.set(lease, "attempt 1", ex=5)
        eventually(lambda: redis.ttl(lease) > 5, what="the lease is renewed")
        assert hooks.stop() is None
        world.take_lease("another")
        eventually(lambda: hooks.stop() == "shutdown", what="the attempt receives the request to stop")
        assert redis.get(lease) == b"another"
        return {"model.onnx": b"not to be published"}

    fake_training.use(train, monkeypatch)
    attempt = fake_training.attempt(
        world.job, world.jobs, world.blobs, clean_redis_url, folder=tmp_path, token="attempt 1"
    )
    with attempt.heartbeat():
        attempt.run()
    assert world.models.all() == []


def test_events_go_on_with_the_numbers_of_an_attempt_that_could_not_store_them(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, clean_redis_url)
    live = Live(Redis.from_url(clean_redis_url, decode_responses=True))
    lost = [{"id": n, "at": 1.0, "type": "message", "data": {"text": "lost"}} for n in (1, 2, 3)]
    live.add_events(world.job.id, lost)  # and killed before they were in the storage
    second = world.jobs.move(world.jobs.move(world.job, JobStatus.QUEUED), JobStatus.RUNNING, attempt=2)

    def train(_: Job, hooks: Hooks) -> Mapping[str, bytes]:
        hooks.event("message", {"text": "of the second attempt"})
        return {"model.onnx": b"x"}

    fake_training.use(train, monkeypatch)
    world.run(second, world.blobs)
    numbers = {event["data"].get("text"): event["id"] for event in live.events(world.job.id)}
    assert numbers["of the second attempt"] == 4
