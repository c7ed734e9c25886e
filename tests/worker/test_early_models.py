"""Early models: a real service completes with them while a real worker trains, until the job ends."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.models.config import Budget
from nextchar.store.jobs import Job, JobStatus
from tests.app.service import NO_TLS, served
from tests.waiting import eventually
from tests.worker.test_tasks import ROOT, World
from tests.worker.warm_worker import COLD, WITHOUT_WARM_UP


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str) -> Iterator[World]:
    world = World(tmp_path, clean_redis_url)
    yield world
    for worker in world.workers:
        worker.kill()
        worker.wait()


@contextlib.contextmanager
def serving(world: World) -> Iterator[httpx.Client]:
    settings = ApiSettings(data_dir=world.folder, redis_url=world.redis_url)
    with served(create_app(settings)) as url, httpx.Client(base_url=url, timeout=300, verify=NO_TLS) as http:
        yield http


def completed(http: httpx.Client, model: str) -> dict[str, Any]:
    body = {"prompt": "the quick brown fox ", "max_characters": 9, "temperature": 0}
    answer = http.post(f"/v1/models/{model}/complete", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def training_early(world: World) -> Job:
    """Return a job that has an early model and trains for longer than a test."""
    job = world.send(Budget(steps=10**6), ready_early=True)
    world.trained(job, steps=1)
    job = world.jobs.get(job.id)
    assert job.early and job.early.attempt == 1
    return job


def test_an_early_model_completes_until_the_version_of_its_job_replaces_it(world: World) -> None:
    world.start_worker()
    job = training_early(world)
    early = f"fox@{job.id}"
    with serving(world) as http:
        shown = http.get(f"/v1/jobs/{job.id}").json()
        assert shown["early"]["model"] == early and shown["early"]["since"] < shown["updated_at"] + 1
        for name in ("fox", early):
            found = completed(http, name)
            assert (found["model"], found["early"]) == (early, True)
            assert found["completions"][0]["text"] == "jumps ove"
        suggested = http.post(f"/v1/models/{early}/suggest", json={"prefix": "the qui"}).json()
        assert (suggested["early"], suggested["suggestions"][0]["text"]) == (True, "the quick")
        assert http.post(f"/v1/models/{early}/next", json={"prompt": "the q"}).json()["early"] is True
        for name in ("fox", early):
            scored = http.post(f"/v1/models/{name}/score", json={"lines": ["the dog"]})
            assert code_of(scored) == (404, "model_in_training")
        assert code_of(http.delete(f"/v1/models/{early}")) == (404, "model_in_training")
        assert code_of(http.delete("/v1/models/fox")) == (404, "model_not_found")
        assert code_of(http.post("/v1/models/other@" + job.id + "/complete", json={"prompt": ""})) == (
            404,
            "model_not_found",
        )
        assert http.get("/v1/models").json()["data"] == []

        http.post(f"/v1/jobs/{job.id}/cancel", json={"keep_best": True})
        assert world.finished(job).model == "fox@1"
        for name in ("fox", early):
            eventually(lambda n=name: completed(http, n)["model"] == "fox@1", what="the version completes")
            assert completed(http, name)["early"] is False
        assert http.get(f"/v1/jobs/{job.id}").json()["early"] is None
        report = http.get("/v1/models/fox/files/report.json").json()
    assert report["experts"]["early"] < report["baselines"]["unigram"]
    eventually(lambda: not world.blobs.paths("early_models"), what="its files are deleted")


def test_an_early_model_outlives_its_worker_and_goes_away_with_its_job(world: World) -> None:
    worker = world.start_worker()
    job = training_early(world)
    worker.kill()
    worker.wait()
    with serving(world) as http:
        assert completed(http, "fox")["early"]
        world.forget_lease(job)
        world.start_worker()
        eventually(lambda: world.status(job) is JobStatus.RUNNING, what="another worker has the job")
        assert completed(http, "fox")["early"]
        assert (again := world.jobs.get(job.id).early) and again == job.early
        http.post(f"/v1/jobs/{job.id}/cancel")
        assert world.finished(job).status is JobStatus.CANCELLED
        for name in ("fox", f"fox@{job.id}"):
            eventually(
                lambda n=name: http.post(f"/v1/models/{n}/complete", json={"prompt": ""}).status_code == 404,
                what="nothing completes",
            )
    eventually(lambda: not world.blobs.paths("early_models"), what="its files are deleted")


DIES_WHILE_IT_WRITES = """
import os, signal
from nextchar.store.early_models import EarlyModels
write = EarlyModels.write
def write_and_die(self, job, *arguments):
    write(self, job, *arguments)
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
EarlyModels.write = write_and_die
"""


def test_an_early_model_that_a_killed_worker_has_written_half_is_never_called(world: World) -> None:
    environment = {
        **os.environ, "NEXTCHAR_DATA_DIR": str(world.folder), "NEXTCHAR_REDIS_URL": world.redis_url
    }  # fmt: skip
    program = f"{DIES_WHILE_IT_WRITES}\n{WITHOUT_WARM_UP}\n{COLD}"
    world.workers.append(subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment))
    job = world.send(Budget(steps=10**6), ready_early=True)
    eventually(lambda: bool(world.live.kills(job.id)), within_s=250, what="the worker was killed")
    assert world.blobs.paths("early_models")
    assert world.models.early.resolve("fox") is None
    world.forget_lease(job)
    eventually(lambda: world.jobs.get(job.id).early is not None, within_s=250, what="it is written again")
    assert (early := world.jobs.get(job.id).early) and early.attempt == 2
    assert world.models.early.resolve("fox") == f"fox@{job.id}"
    world.live.request_stop(job.id, "cancel")
    assert world.finished(job).status is JobStatus.CANCELLED
    eventually(lambda: not world.blobs.paths("early_models"), what="what both have written is deleted")


def test_a_bare_name_with_a_version_means_that_while_the_next_is_trained(world: World) -> None:
    world.start_worker()
    assert world.finished(world.send(Budget(steps=5))).early is None
    job = training_early(world)
    with serving(world) as http:
        found = {name: completed(http, name)["model"] for name in ("fox", f"fox@{job.id}")}
    assert found == {"fox": "fox@1", f"fox@{job.id}": f"fox@{job.id}"}
