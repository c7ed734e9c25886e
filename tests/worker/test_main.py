"""The worker's parent process, and a Redis that does not do what it should."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq.exceptions import StopRequested

from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.models.config import Budget
from nextchar.store.jobs import Job, JobStatus
from nextchar.store.queue import TASK, rq_queue
from nextchar.worker import main
from nextchar.worker.main import count_memory_kills
from tests.waiting import eventually
from tests.worker.test_tasks import World, _children

ROOT = Path(__file__).parents[2]

# As production runs it, but for how long it waits between looks.
START = """
from nextchar.store import live
from nextchar.worker import attempt, main, tasks
live.LEASE_S, attempt.RENEW_S = 4, 0.3
main._WORKER_TTL_S = 16  # so that it looks every second
main._MONITORING_S, main._LOG_EVERY_S, main._MAX_WAIT_S = 1, 0.0, 0.3
main.main()
"""

# How a Redis comes to refuse writes, and how it stops.
REFUSALS = {"no memory": ("maxmemory", 1, 0), "no replicas": ("min-replicas-to-write", 1, 0)}


class Outage(World):
    """A world whose Redis can be made to refuse writes, and one worker whose log is read."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url)
        self.redis = Redis.from_url(redis_url)
        self.log = folder / "worker.log"

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "NEXTCHAR_DATA_DIR": str(self.folder),
            "NEXTCHAR_REDIS_URL": self.redis_url,
            "NEXTCHAR_TRAINING_THREADS": "1",  # other tests run at the same time
            **settings,
        }
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", START], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.workers.append(worker)
        return worker

    def refuse_writes(self, kind: str) -> None:
        setting, value, _ = REFUSALS[kind]
        self.redis.config_set(setting, value)

    def take_writes(self) -> None:
        for setting, _, value in REFUSALS.values():
            self.redis.config_set(setting, value)

    def waits(self, times: int) -> None:
        """Wait until the worker has said so often that it waits for Redis."""
        eventually(
            lambda: self.log.read_text().count("waiting for Redis") >= times,
            what="the worker waits for Redis",
        )

    def consumed(self, job: Job) -> None:
        eventually(
            lambda: f"{job.id} is cancelled" in self.log.read_text() and not _children(self.workers[0].pid),
            what="the message is taken and done with",
        )

    def already_over(self) -> Job:
        """Send a message for a job that leaves nothing to do."""
        job = self.send(Budget(steps=1))
        return self.jobs.move(job, JobStatus.CANCELLED)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    with EmbeddedValkey(tmp_path) as valkey:
        world = Outage(tmp_path, valkey.url)
        yield world
        for worker in world.workers:
            worker.kill()
            worker.wait()


def test_an_idle_worker_waits_for_redis_and_stops_on_a_signal(outage: Outage) -> None:
    outage.refuse_writes("no memory")
    worker = outage.start()
    outage.waits(2)
    outage.take_writes()
    outage.consumed(outage.already_over())
    for kind in REFUSALS:
        said = outage.log.read_text().count("waiting for Redis")
        outage.refuse_writes(kind)
        outage.waits(said + 2)
        outage.take_writes()
        outage.consumed(outage.already_over())
    assert "Traceback" not in outage.log.read_text()
    said = outage.log.read_text().count("waiting for Redis")
    outage.refuse_writes("no memory")
    outage.waits(said + 1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def test_a_worker_for_one_job_takes_one_and_exits(outage: Outage) -> None:
    first, second = outage.already_over(), outage.already_over()
    assert outage.queue.waiting() == [first.id, second.id]
    assert outage.start(NEXTCHAR_MAX_JOBS="1").wait(timeout=500) == 0
    assert outage.queue.waiting() == [second.id]


def test_a_worker_for_some_jobs_does_the_rest_after_it_has_lost_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int | None] = []
    ends = [(0, True), (1, True), (1, False)]  # jobs taken, whether Redis was lost

    def make_worker(_: Redis, __: str) -> SimpleNamespace:
        taken, has_lost_redis = ends[len(limits)]

        def work(*, logging_level: str, burst: bool, max_jobs: int) -> None:
            assert burst
            limits.append(max_jobs)

        return SimpleNamespace(work=work, jobs_taken=taken, has_lost_redis=has_lost_redis, is_stopping=False)

    monkeypatch.setattr(main, "_stop_on_signals", lambda: None)
    monkeypatch.setattr(main, "_wait_for_redis", lambda _: None)
    monkeypatch.setattr(main, "make_worker", make_worker)
    replace_sleep(monkeypatch, lambda _: None)
    main.work("redis://127.0.0.1:1/0", max_jobs=2)
    assert limits == [2, 2, 1]


def test_worker_waits_for_a_redis_that_is_not_there_yet(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as valkey:
        outage = Outage(tmp_path, valkey.url)
        valkey.__exit__()
        worker = outage.start()
        try:
            outage.waits(2)
            assert worker.poll() is None
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(120) == 0
            valkey.__enter__()


@pytest.mark.long  # a fault round
@pytest.mark.parametrize("kind", REFUSALS)
def test_job_trains_on_while_redis_refuses_writes_and_is_done_at_its_first_attempt(
    outage: Outage, kind: str
) -> None:
    worker = outage.start()
    job = outage.send(Budget(steps=10**6))
    outage.trained(job, steps=20)
    outage.refuse_writes(kind)
    eventually(lambda: outage.log.read_text().count("the work continues") >= 3, what="RQ has been refused")
    if kind == "no replicas":  # without memory a lease can still be renewed
        eventually(lambda: not outage.live.has_lease(job.id), what="the lease has run out")
    for _ in range(3):
        with pytest.raises(RedisError):
            outage.reconciler.run()
    assert outage.jobs.get(job.id).status is JobStatus.RUNNING
    outage.take_writes()
    eventually(lambda: outage.live.has_lease(job.id), what="the lease is taken again")
    assert outage.status(job) is JobStatus.RUNNING
    outage.live.request_stop(job.id, "cancel_keep_best")  # so that it ends now
    done = outage.finished(job)
    assert (done.model, done.attempt) == ("fox@1", 1)
    assert worker.poll() is None
    outage.consumed(outage.already_over())


def test_kills_for_want_of_memory_are_counted_where_the_kernel_tells() -> None:
    before = count_memory_kills()
    assert before >= 0
    assert count_memory_kills() >= before


@pytest.mark.parametrize(
    ("queue", "name", "trains"),
    [("training", "nextchar-training", True), ("batches", "nextchar-batches", False)],
)
def test_kernels_are_compiled_before_work_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, queue: str, name: str, trains: bool
) -> None:
    done: list[object] = []
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NEXTCHAR_QUEUE", queue)
    monkeypatch.setattr(main, "_stop_on_signals", lambda: None)
    monkeypatch.setattr(main, "warm_up", lambda folder, *, trains: done.append((folder, trains)))
    monkeypatch.setattr(main, "work", lambda *_, queue, **__: done.append(queue))
    main.main()
    assert done == [(tmp_path, trains), name]


COMPILE_FOR_EVER = """
import subprocess, sys
from nextchar.models.kernels import compile_cache
import nextchar.worker.main
run = subprocess.run
def compile(*_, **options):
    return run([sys.executable, "-c", "import time; time.sleep(300)"], check=False)
compile_cache.subprocess.run = compile
nextchar.worker.main.main()
"""


def test_worker_that_is_stopping_while_kernels_are_compiled_ends_with_the_compiler(tmp_path: Path) -> None:
    environment = {**os.environ, "NEXTCHAR_DATA_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    with subprocess.Popen([sys.executable, "-c", COMPILE_FOR_EVER], cwd=ROOT, env=environment) as worker:
        try:
            eventually(lambda: len(_children(worker.pid)) == 1, what="a compiler runs")
            (compiler,) = _children(worker.pid)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(120) == 0
        finally:
            worker.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(compiler, 0)


def replace_sleep(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    """Replace `time.sleep` in `nextchar.worker.main` alone: threads of other tests may still be sleeping."""
    monkeypatch.setattr(main, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))


def test_worker_that_is_ended_at_once_again_and_again_is_replaced_after_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses_s: list[float] = []

    def refuse(_: Redis, __: str) -> main.QueueWorker:
        raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)
        if len(pauses_s) == 7:
            raise StopRequested

    monkeypatch.setattr(main, "_stop_on_signals", lambda: None)
    monkeypatch.setattr(main, "_wait_for_redis", lambda _: None)
    monkeypatch.setattr(main, "make_worker", refuse)
    replace_sleep(monkeypatch, pause)
    main.work("redis://127.0.0.1:1/0")
    assert pauses_s == [0.5, 1, 2, 4, 8, 10, 10]


def test_worker_does_not_wait_for_the_answer_of_a_redis_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(_: float) -> None:
        raise StopRequested

    monkeypatch.setattr(main, "_REDIS_TIMEOUT_S", 0.1)
    replace_sleep(monkeypatch, stop)
    with socket.create_server(("127.0.0.1", 0)) as hangs, pytest.raises(StopRequested):
        main._wait_for_redis(f"redis://127.0.0.1:{hangs.getsockname()[1]}/0")
    assert "waiting for Redis: Timeout" in caplog.text


def test_a_child_forked_during_shutdown_gets_the_stop_signal(
    clean_redis_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    own = signal.signal(main.STOP_SIGNAL, signal.SIG_DFL)  # a test before this one may have set another
    request.addfinalizer(lambda: signal.signal(main.STOP_SIGNAL, own))
    with Redis.from_url(clean_redis_url) as redis:
        worker = main.make_worker(redis)
        monkeypatch.setattr(worker, "main_work_horse", lambda *_: signal.pause())
        monkeypatch.setattr(worker, "is_stopping", True)  # before there is a child
        queue = rq_queue(redis)
        worker.fork_work_horse(queue.enqueue(TASK, "job_0"), queue)
        _, status, _ = worker.wait_for_horse()
    assert status is not None and os.WTERMSIG(status) == main.STOP_SIGNAL
