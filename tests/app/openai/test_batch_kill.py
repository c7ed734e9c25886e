"""Workers are killed while they run a batch, and so is Redis: every request is answered once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.store.queue import BatchQueue
from tests.app.test_main import ROOT, is_ready, started
from tests.waiting import eventually
from tests.worker.test_tasks import _children

REQUESTS = int(os.environ.get("BATCH_KILL_REQUESTS", "2000"))

# As production runs them, but lost work is found sooner.
API = """
from nextchar.app.openai import batch_control; batch_control.RECONCILE_S = 2
from nextchar.app import main; main.main()
"""
WORKER = """
from nextchar.store import live; live.LEASE_S = 3
from nextchar.worker import main; main.main()
"""


class World:
    """An API, and workers of batches that can be started and killed."""

    def __init__(self, folder: Path, redis_url: str, http: httpx.Client) -> None:
        self.http, self.redis = http, Redis.from_url(redis_url)
        self._environment = os.environ | {
            "NEXTCHAR_DATA_DIR": str(folder),
            "NEXTCHAR_REDIS_URL": redis_url,
            "NEXTCHAR_QUEUE": "batches",
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, env=self._environment)
        self.workers.append(worker)
        return worker

    def create(self, count: int = REQUESTS, name: str = "r") -> str:
        lines = "".join(request(f"{name}{number}", seed=number) for number in range(count)).encode()
        form = {"file": ("in.jsonl", lines), "purpose": (None, "batch")}
        file = self.http.post("/v1/files", files=form).raise_for_status().json()["id"]
        body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        return str(self.http.post("/v1/batches", json=body).raise_for_status().json()["id"])

    def progress(self, batch: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/batches/{batch}").json()
        return found

    def completed(self, batch: str) -> int:
        return int(self.progress(batch).get("request_counts", {"completed": 0})["completed"])

    def check_is_whole(self, batch: str, count: int = REQUESTS, name: str = "r") -> None:
        """Wait until a batch has ended, and check that its file has every response once, in order."""
        eventually(lambda: self.progress(batch).get("status") == "completed", within_s=300)
        done = self.progress(batch)
        assert done["request_counts"] == {"total": count, "completed": count, "failed": 0}
        assert done["error_file_id"] is None
        lines = self.http.get(f"/v1/files/{done['output_file_id']}/content").iter_lines()
        responses = [json.loads(line) for line in lines]
        assert [one["custom_id"] for one in responses] == [f"{name}{number}" for number in range(count)]
        assert all(len(one["response"]["body"]["choices"][0]["text"]) == 300 for one in responses)


def request(custom_id: str, **fields: object) -> str:
    body = {"model": "real", "prompt": "the ", "max_tokens": 300, "precision": "float32"} | fields
    one = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(one) + "\n"


@contextlib.contextmanager
def running(folder: Path, redis_url: str) -> Iterator[World]:
    with (
        started(folder, redis_url, {"NEXTCHAR_LOG_LEVEL": "ERROR"}, program=("-c", API)) as (_, url),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        world = World(folder, redis_url, http)
        try:
            eventually(lambda: is_ready(http), within_s=240)
            yield world
        finally:
            for worker in world.workers:
                worker.kill()
                worker.wait()


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str) -> Iterator[World]:
    with running(tmp_path, clean_redis_url) as world:
        yield world


@pytest.mark.timeout(600)
def test_killed_workers_lose_no_request_and_answer_none_twice(world: World) -> None:
    batch = world.create()
    worker = world.start_worker()
    for part, at in (("child", REQUESTS // 4), ("worker", REQUESTS // 2)):
        eventually(lambda at=at: world.completed(batch) >= at, within_s=300)  # type: ignore[misc]
        assert world.progress(batch)["status"] == "in_progress"  # otherwise the kills come too late
        os.kill(_children(worker.pid)[0] if part == "child" else worker.pid, signal.SIGKILL)
    worker.wait()
    world.start_worker()
    world.check_is_whole(batch)
    files = [file["purpose"] for file in world.http.get("/v1/files").json()["data"]]
    assert sorted(files) == ["batch", "batch_output"]


def test_a_worker_that_shuts_down_gives_its_batch_to_another_at_once(world: World) -> None:
    batch = world.create()
    worker = world.start_worker()
    eventually(lambda: world.completed(batch) > 0, within_s=120)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert set(BatchQueue(world.redis).waiting()) == {batch}
    world.start_worker()
    world.check_is_whole(batch)


def test_a_batch_goes_on_without_redis_and_ends_with_it(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as valkey, running(tmp_path, valkey.url) as world:
        batch = world.create()
        world.start_worker()
        eventually(lambda: world.completed(batch) > 0, within_s=120)
        chunks = tmp_path / "store" / "batch_chunks" / batch
        os.kill(valkey.pid, signal.SIGSTOP)
        before = len(list(chunks.glob("*.answers")))
        eventually(lambda: len(list(chunks.glob("*.answers"))) > before + 1, within_s=60)
        os.kill(valkey.pid, signal.SIGCONT)
        world.check_is_whole(batch)


def test_a_batch_that_is_cancelled_while_it_runs_makes_way_for_the_next(world: World) -> None:
    long = world.create()
    world.start_worker()
    eventually(lambda: world.completed(long) > 0, within_s=120)
    short = world.create(count=3, name="s")
    world.http.post(f"/v1/batches/{long}/cancel").raise_for_status()
    world.check_is_whole(short, count=3, name="s")
    assert world.progress(long)["status"] == "cancelled"
