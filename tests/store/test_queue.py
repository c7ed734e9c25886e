from typing import Any

import pytest
from redis import Redis
from rq import Queue

from store.blobs import Blobs
from store.jobs import Job, Jobs, JobStatus
from store.queue import QUEUE_NAME, AllowedJob, TrainingQueue
from tests.store.test_jobs import REQUEST


@pytest.fixture
def redis(clean_redis_url: str) -> Any:
    return Redis.from_url(clean_redis_url)


@pytest.fixture
def jobs(blobs: Blobs) -> Jobs:
    return Jobs(blobs)


def _created(jobs: Jobs, n: int) -> list[Job]:
    return [jobs.create(REQUEST) for _ in range(n)]


def test_jobs_wait_in_order_and_the_front_is_next(redis: Any, jobs: Jobs) -> None:
    queue = TrainingQueue(redis)
    a, b, c = _created(jobs, 3)
    queue.send(a)
    queue.send(b)
    queue.send(c, at_front=True)
    assert queue.waiting() == [c.id, a.id, b.id]


def test_a_withdrawn_job_waits_no_more(redis: Any, jobs: Jobs) -> None:
    queue = TrainingQueue(redis)
    a, b = _created(jobs, 2)
    for job in (a, b):
        queue.send(job)
    queue.withdraw(a)
    queue.withdraw(a)  # again is no error
    assert queue.waiting() == [b.id]


def test_a_job_queued_again_is_a_new_message(redis: Any, jobs: Jobs) -> None:
    queue = TrainingQueue(redis)
    (job,) = _created(jobs, 1)
    queue.send(job)
    again = jobs.move(jobs.move(job, JobStatus.RUNNING), JobStatus.QUEUED)
    queue.send(again)
    assert queue.waiting() == [job.id, job.id]
    queue.withdraw(again)
    assert queue.waiting() == [job.id]


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("os.system", {}),
        ("worker.tasks.other", {}),
        ("worker.tasks.train", {"on_success": "os.system"}),
    ],
)
def test_a_message_that_names_another_function_is_refused(redis: Any, function: str, options: dict) -> None:
    from rq import Callback

    callbacks = {key: Callback(name) for key, name in options.items()}
    foreign = Queue(QUEUE_NAME, connection=redis, serializer="json")
    message = foreign.enqueue(function, "echo hello", **callbacks)
    with pytest.raises(PermissionError, match="not allowed"):
        AllowedJob.fetch(message.id, connection=redis, serializer="json")
