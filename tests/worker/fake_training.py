"""Attempts at jobs as in a worker, except for the training, which is a function of the test."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from nextchar.models.saved_model import Card, describe_files
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Job, Jobs
from nextchar.store.live import Live
from nextchar.worker.attempt import Attempt
from nextchar.worker.checkpoints import Checkpoints
from nextchar.worker.hooks import Hooks
from nextchar.worker.settings import WorkerSettings

Train = Callable[[Job, Hooks], Mapping[str, bytes]]
"""Replaces training: takes a job and its hooks; returns the model's files."""


def use(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have attempts call `train`, without TensorFlow."""

    def train_model(job: Job, *, hooks: Hooks, **_: Any) -> Any:
        files = train(job, hooks)
        card = Card(
            id="model_" + job.id.removeprefix("job_"),
            name=job.request.name,
            created_at=1,
            job=job.id,
            network=job.request.network,
            training=job.request.training,
            characters="abc",
            parameters=1,
            files=describe_files(files),
        )
        return SimpleNamespace(stopped=None, card=card, files=files)

    monkeypatch.setitem(sys.modules, "nextchar.worker.pipeline", SimpleNamespace(train_model=train_model))


def attempt(job: Job, jobs: Jobs, blobs: Blobs, redis_url: str, *, folder: Path, token: str) -> Attempt:
    """Return an attempt at a running job."""
    live = Live(Redis.from_url(redis_url, decode_responses=True))
    settings = WorkerSettings(data_dir=folder, redis_url=redis_url)
    return Attempt(settings, live, blobs, jobs, Checkpoints(blobs, job.id), token, job)
