import errno
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from rq.utils import utcformat
from rq.worker import Worker

from nextchar.app.operations import readiness as readiness_module
from nextchar.app.operations.readiness import (
    HUNG_S,
    LOOP_FAILING_S,
    Probe,
    Problem,
    ReadinessCheck,
    check_redis,
    check_storage,
    readiness_of,
)
from nextchar.models.errors import StorageFull, Unavailable
from nextchar.store.background import BackgroundLoop
from nextchar.store.local_blobs import Disk
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import WORKER_SILENT_S, TrainingQueue, rq_queue
from tests.waiting import eventually

HANGS = Problem("storage", "does not respond", "nothing is served", is_down=True)
WRONG = Problem("storage", "is full", "uploads are refused")


@pytest.fixture
def queue(redis: Redis) -> TrainingQueue:
    return TrainingQueue(redis)


@pytest.fixture
def redis(raw_redis: Redis) -> Redis:
    return raw_redis


@pytest.fixture
def worker(redis: Redis) -> Worker:
    born = Worker([rq_queue(redis)], connection=redis, serializer="json")
    born.register_birth()
    return born


@pytest.fixture(params=[("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")], ids=lambda p: p[0])
def refusing(request: pytest.FixtureRequest, redis: Redis, worker: Worker) -> Iterator[Worker]:
    """Redis that answers and refuses writes."""
    name, refuse, accept = request.param
    redis.config_set(name, refuse)
    yield worker
    redis.config_set(name, accept)


@pytest.mark.usefixtures("refusing")
def test_redis_that_refuses_writes_is_named_though_it_answers(redis: Redis, queue: TrainingQueue) -> None:
    assert redis.ping()
    [problem] = check_redis(redis, queue)
    assert (problem.part, problem.is_down) == ("redis", False)
    assert problem.problem.startswith("refuses writes: ")
    assert "completions and scores are served" in problem.effect


def test_worker_that_is_not_heard_of_counts_as_gone(
    redis: Redis, queue: TrainingQueue, worker: Worker
) -> None:
    silent_since = datetime.now(UTC) - timedelta(seconds=WORKER_SILENT_S + 1)
    redis.hset(worker.key, "last_heartbeat", utcformat(silent_since))
    assert [problem.part for problem in check_redis(redis, queue)] == ["worker"]
    worker.heartbeat()
    assert check_redis(redis, queue) == []
    worker.register_death()
    assert [problem.part for problem in check_redis(redis, queue)] == ["worker"]


def test_missing_worker_is_explained_while_kernels_are_compiled(
    redis: Redis, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness_module, "is_compiling", lambda: True)
    [problem] = check_redis(redis, queue)
    assert (problem.part, problem.is_down) == ("worker", False)
    assert "kernels are being compiled (once per machine and version)" in problem.problem


def test_answer_names_no_path_or_host_of_a_redis_that_is_away(tmp_path: Path) -> None:
    redis = Redis.from_url(f"unix://{tmp_path}/secret-place")
    [problem] = check_redis(redis, TrainingQueue(redis))
    assert problem.is_down
    assert "secret" not in problem.problem + problem.effect
    assert "secret-place" in problem.detail


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StorageFull("no room"), "is full"),
        (Unavailable("read-only file system /secret"), "can be read, but refuses writes"),
    ],
)
def test_storage_that_can_be_read_and_not_written_is_degraded_and_not_down(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    blobs = open_blobs("memory:///")
    assert check_storage(blobs) == []
    monkeypatch.setattr(type(blobs), "write", refuse)
    [problem] = check_storage(blobs)
    assert (problem.problem, problem.is_down) == (sentence, False)
    assert readiness_of([problem], []).status == "degraded"


def test_folder_without_hard_links_is_degraded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    blobs = open_blobs(tmp_path.as_uri())
    assert check_storage(blobs) == check_storage(blobs) == []
    monkeypatch.setattr(Disk, "link", refuse)
    [problem] = check_storage(blobs)
    assert (problem.problem, problem.is_down) == ("can be read, but refuses writes", False)
    assert "hard links" in problem.detail


def test_hanging_check_delays_callers_briefly_and_counts_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness_module, "FRESH_S", 0.0)
    monkeypatch.setattr(readiness_module, "WAIT_S", 0.05)
    monkeypatch.setattr(readiness_module, "HUNG_S", 2.0)
    may_end = threading.Event()
    calls = 0

    def check() -> list[Problem]:
        nonlocal calls
        calls += 1
        assert calls == 1 or may_end.wait(120)
        return []

    probe = Probe("storage", check, HANGS)
    assert asked(probe) == []
    began = time.monotonic()
    assert asked(probe) == []  # it may only be slow: the last result counts for a while
    assert time.monotonic() - began < HUNG_S
    eventually(lambda: asked(probe) == [HANGS], what="the hanging check counts as down")
    assert calls == 2, "another thread was started for a check that hangs"
    may_end.set()
    eventually(lambda: asked(probe) == [], what="it works again")


def test_checks_are_made_once_for_callers_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness_module, "FRESH_S", 60.0)
    calls: list[int] = []

    def check() -> list[Problem]:
        calls.append(1)
        return [WRONG]

    probe = Probe("storage", check, HANGS)
    assert [asked(probe) for _ in range(5)] == [[WRONG]] * 5
    assert len(calls) == 1


def test_working_object_store_is_asked_less_often_and_a_failing_one_as_often_as_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness_module, "FRESH_S", 0.0)
    problems: list[Problem] = [WRONG]
    calls: list[int] = []

    def check() -> list[Problem]:
        calls.append(1)
        return list(problems)

    probe = Probe("storage", check, HANGS, works_for_s=60.0)
    assert [asked(probe) for _ in range(2)] == [[WRONG]] * 2
    problems.clear()
    assert [asked(probe) for _ in range(3)] == [[]] * 3
    assert len(calls) == 3, "two that failed and the first that did not"


@pytest.mark.usefixtures("worker")
def test_background_loop_is_reported_once_it_is_late_by_its_own_interval(
    redis: Redis, queue: TrainingQueue
) -> None:
    now_s = 0.0
    loops = [
        BackgroundLoop(name, list, interval_s=interval_s, clock=lambda: now_s)
        for name, interval_s in (("reconciler", 5.0), ("retention", 300.0))
    ]
    check = ReadinessCheck(blobs=open_blobs("memory:///"), redis=redis, queue=queue, loops=loops)

    def late() -> list[str]:
        return [problem.problem.split()[0] for problem in check.report().degraded]

    now_s = 5 + LOOP_FAILING_S
    assert late() == []
    now_s = 300 + LOOP_FAILING_S
    assert late() == ["reconciler"]
    now_s = 301 + LOOP_FAILING_S
    assert late() == ["reconciler", "retention"]


def asked(probe: Probe) -> list[Problem]:
    probe.begin()
    return probe.result()
