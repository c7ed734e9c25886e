import json
import zlib

import pytest
from redis import Redis
from rq import Queue

from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Job, Jobs
from nextchar.store.queue import QUEUE_NAME, AllowedJob, TrainingQueue, round_robin_by_key
from tests.store.test_jobs import REQUEST


@pytest.fixture
def redis(raw_redis: Redis) -> Redis:
    return raw_redis


@pytest.fixture
def jobs(blobs: Blobs) -> Jobs:
    return Jobs(blobs)


def _created(jobs: Jobs, n: int) -> list[Job]:
    return [jobs.create(REQUEST) for _ in range(n)]


def test_jobs_wait_in_order_and_the_front_is_next(redis: Redis, jobs: Jobs) -> None:
    queue = TrainingQueue(redis)
    a, b, c = _created(jobs, 3)
    queue.enqueue(a)
    queue.enqueue(b)
    queue.enqueue(c, at_front=True)
    assert queue.waiting() == [c.id, a.id, b.id]


def _of(jobs: Jobs, keys: str) -> list[Job]:
    """Return jobs that keys named by these letters have created."""
    return [jobs.create(REQUEST, created_by=None if key == "-" else key) for key in keys]


@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        ("aaabb", "", "ababa"),
        ("aaab", "a", "baaa"),
        ("aabbc", "ab", "cabab"),
        ("bbaa", "", "baba"),
        ("aaa", "aa", "aaa"),
        ("---a", "", "-a--"),
        ("", "a", ""),
    ],
)
def test_keys_take_turns(jobs: Jobs, waiting: str, running: str, expected: str) -> None:
    jobs_waiting = _of(jobs, waiting)
    ordered = round_robin_by_key(jobs_waiting, _of(jobs, running))
    assert "".join(job.created_by or "-" for job in ordered) == expected
    for key in set(waiting):
        name = None if key == "-" else key
        mine = [job.id for job in ordered if job.created_by == name]
        assert mine == [job.id for job in jobs_waiting if job.created_by == name], "in the order of arrival"


def test_a_job_for_each_worker_goes_to_each_key_as_workers_become_free(jobs: Jobs) -> None:
    """One worker: a key that submits many jobs first does not keep the others waiting for all of them."""
    waiting, served = _of(jobs, "aaaaaabbc"), ""
    while waiting:
        waiting = round_robin_by_key(waiting, [])
        taken = waiting.pop(0)
        served += taken.created_by or "-"
        waiting = round_robin_by_key(waiting, [taken])
    assert served == "abcabaaaa"


def test_the_queue_is_arranged_and_loses_nothing(redis: Redis, jobs: Jobs) -> None:
    queue = TrainingQueue(redis)
    a1, a2, a3, b = _of(jobs, "aaab")
    for job in (a1, a2, a3, b):
        queue.enqueue(job)
    queue.reorder([a1, a2, a3, b], [])
    assert queue.waiting() == [a1.id, b.id, a2.id, a3.id]
    # A worker has taken one, and another job has come, since the records were read.
    [late] = _of(jobs, "c")
    queue.enqueue(late)
    queue.remove(a1)
    queue.reorder([a1, a2, a3, b], [a1])
    assert queue.waiting() == [b.id, a2.id, a3.id, late.id]


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("os.system", {}),
        ("nextchar.worker.tasks.other", {}),
        ("nextchar.worker.tasks.train", {"on_success": "os.system"}),
    ],
)
def test_a_message_that_names_another_function_is_refused(redis: Redis, function: str, options: dict) -> None:
    from rq import Callback

    callbacks = {key: Callback(name) for key, name in options.items()}
    foreign = Queue(QUEUE_NAME, connection=redis, serializer="json")
    message = foreign.enqueue(function, "echo hello", **callbacks)
    with pytest.raises(PermissionError, match="not allowed"):
        AllowedJob.fetch(message.id, connection=redis, serializer="json")


def test_a_message_to_an_object_is_refused(redis: Redis, jobs: Jobs) -> None:
    [job] = _created(jobs, 1)
    TrainingQueue(redis).enqueue(job)
    [message] = Queue(QUEUE_NAME, connection=redis, serializer="json").job_ids
    assert AllowedJob.fetch(message, connection=redis, serializer="json").args == [job.id]
    [data] = [redis.hget(f"rq:job:{message}", "data")]
    name, _, *rest = json.loads(zlib.decompress(data))
    redis.hset(f"rq:job:{message}", "data", zlib.compress(json.dumps([name, "an object", *rest]).encode()))
    with pytest.raises(PermissionError, match="not allowed"):
        AllowedJob.fetch(message, connection=redis, serializer="json")
