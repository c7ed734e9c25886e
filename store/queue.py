"""The queues between the API and the workers: RQ, with the ids of jobs, or of batches, as messages.

Messages can be lost or delivered twice. A worker holds the lease of what it works on and reads its record, so
a second message has no effect, and a lost one is enqueued again: by the reconciler, for a batch by
`BatchControl`. Messages are in the order of arrival until the reconciler reorders those of jobs, so that API
keys share the workers.

What the child processes of workers share, whatever their queue.
"""

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, worker_registration
from rq.exceptions import NoSuchJobError
from rq.job import Job as RQJob
from rq.utils import as_text, utcparse

from nextchar.store import tracing
from nextchar.store.jobs import Job
from nextchar.store.live import Live
from nextchar.store.logs import set_job

_SENT_KEY = "nextchar:queue:sent"

WORKER_SILENT_S = 45
"""A worker without a heartbeat for this long counts as dead. An idle worker sends one every 15 s."""

QUEUE_NAME = "nextchar-training"
TASK = "nextchar.worker.tasks.train"
_EARLIER_TASK = "worker.tasks.train"
BATCH_QUEUE_NAME = "nextchar-batches"
BATCH_TASK = "nextchar.app.openai.batch_processing.run"


# KEYS: the queue; ARGV: messages in their new order. Those that a worker has taken meanwhile stay away, and
# others stay behind.
_REORDER = """
local present = {}
local messages = redis.call('lrange', KEYS[1], 0, -1)
for _, message in ipairs(messages) do present[message] = true end
redis.call('del', KEYS[1])
for _, message in ipairs(ARGV) do
  if present[message] then
    redis.call('rpush', KEYS[1], message)
    present[message] = nil
  end
end
for _, message in ipairs(messages) do
  if present[message] then
    redis.call('rpush', KEYS[1], message)
    present[message] = nil
  end
end
"""


class AllowedJob(RQJob):
    """An RQ job that can only call `TASK` or `BATCH_TASK`, even if an attacker can write to Redis."""

    def restore(self, raw_data: Any) -> Any:
        """Read the job's fields. Raises PermissionError for anything but a plain call of one of them.

        A message sent by a version whose packages had other names calls TASK of this one.
        """
        result = super().restore(raw_data)
        callbacks = [name for field, name in raw_data.items() if as_text(field).endswith("_callback_name")]
        if self.func_name == _EARLIER_TASK:
            self.func_name = TASK
        if self.func_name not in (TASK, BATCH_TASK) or self.instance is not None or any(callbacks):
            raise PermissionError(f"message {self.id} names a function that is not allowed")
        return result


def rq_queue(redis: Redis, name: str = QUEUE_NAME) -> Queue:
    """Return RQ's queue on a connection that does not decode responses (RQ requires that)."""
    return Queue(name, connection=redis, serializer="json", job_class=AllowedJob)


class WorkQueue:
    """The messages that tell the workers of one queue what to work on."""

    def __init__(self, redis: Redis, name: str, task: str) -> None:
        self._redis, self._task = redis, task
        self._queue = rq_queue(redis, name)

    def _send(self, work_id: str, message_id: str, *, at_front: bool) -> None:
        self._queue.enqueue(
            self._task,
            work_id,
            job_id=message_id,
            job_timeout=-1,  # no timeout: a budget bounds a job, and its lease shows whether it is alive
            result_ttl=0,
            failure_ttl=86400,
            at_front=at_front,
        )

    def waiting(self) -> list[str]:
        """Return the ids of the jobs or batches in the queue, next first."""
        return [message.rpartition("-")[0] for message in self._queue.get_job_ids()]

    def live_workers(self) -> int:
        """Return the number of workers with a heartbeat in the last WORKER_SILENT_S seconds."""
        keys = worker_registration.get_keys(queue=self._queue)
        with self._redis.pipeline() as pipe:
            for key in keys:
                pipe.hget(key, "last_heartbeat")
            beats = [utcparse(raw.decode()) for raw in pipe.execute() if raw]
        return sum((datetime.now(UTC) - beat).total_seconds() < WORKER_SILENT_S for beat in beats)


class BatchQueue(WorkQueue):
    """The messages that tell workers which batches to run."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, BATCH_QUEUE_NAME, BATCH_TASK)

    def enqueue(self, batch_id: str, *, at_front: bool = False) -> None:
        """Enqueue a batch. Its worker may do that before its own message is done with."""
        self._send(batch_id, f"{batch_id}-{secrets.token_hex(4)}", at_front=at_front)


class TrainingQueue(WorkQueue):
    """The messages that tell workers which jobs to train."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, QUEUE_NAME, TASK)

    def enqueue(self, job: Job, *, at_front: bool = False) -> None:
        """Enqueue a job whose status is queued."""
        self._redis.incr(_SENT_KEY)
        self._send(job.id, _message_id(job), at_front=at_front)

    def sent(self) -> object:
        """Return a value that is another one once a job was enqueued, or Redis has lost its data."""
        return self._redis.get(_SENT_KEY)

    def reorder(self, waiting: Sequence[Job], running: Sequence[Job]) -> None:
        """Put the messages of waiting jobs in the order of `round_robin_by_key`."""
        messages = self._queue.get_job_ids()
        by_message = {_message_id(job): job for job in waiting}
        known = [by_message[message] for message in messages if message in by_message]
        ordered = [_message_id(job) for job in round_robin_by_key(known, running)]
        if ordered != [message for message in messages if message in by_message]:
            self._redis.eval(_REORDER, 1, self._queue.key, *ordered)

    def remove(self, job: Job) -> None:
        """Remove the message of a job from the queue, if it is there."""
        try:
            RQJob.fetch(_message_id(job), connection=self._redis, serializer="json").delete()
        except NoSuchJobError:
            cast(Any, self._queue).remove(_message_id(job))


def round_robin_by_key(waiting: Sequence[Job], running: Sequence[Job]) -> list[Job]:
    """Return the waiting jobs so that API keys have workers in turn: round robin over the keys.

    The next job is of the key with the fewest jobs before it, running ones included; of several such keys, of
    the one whose job has waited longest. Jobs of one key keep their order. Jobs without a key are one key's.
    """
    taken = Counter(job.created_by for job in running)
    left: dict[str | None, deque[tuple[int, Job]]] = {}
    for place, job in enumerate(waiting):
        left.setdefault(job.created_by, deque()).append((place, job))
    ordered = []
    while left:
        key = min(left, key=lambda key: (taken[key], left[key][0][0]))
        ordered.append(left[key].popleft()[1])
        taken[key] += 1
        if not left[key]:
            del left[key]
    return ordered


def _message_id(job: Job) -> str:
    # With the sequence, a job that is queued again is a new message.
    return f"{job.id}-{job.sequence}"


log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

STOP_SIGNAL = signal.SIGUSR1
"""Sent to the child: save what is done, give the job or batch back to the queue, exit."""

PARENT_PID = "TRAINING_PARENT_PID"
"""The environment variable with the parent's process id, for the child."""

RENEW_S = 2.0
"""Interval between two renewals of a lease."""

REDIS_TIMEOUT_S = 2.0
"""Shorter than the reconciler's patience, so leases are renewed before it acts."""


def connect(url: str, **options: Any) -> Redis:
    """Return a client whose calls fail after REDIS_TIMEOUT_S, with these `options` of its connections.

    They are retried once, for a connection that was closed while idle; one that hangs would hang again.
    """
    defaults: dict[str, Any] = {
        "socket_timeout": REDIS_TIMEOUT_S,
        "socket_connect_timeout": REDIS_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }
    return Redis.from_url(url, **(defaults | options))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if str(os.getppid()) != os.environ.get(PARENT_PID):  # the parent died before the call
            os._exit(1)


@contextlib.contextmanager
def child_process(work_id: str) -> Iterator[None]:
    """Set up a worker's child process for a block in which it works on a job or batch."""
    die_with_parent()
    set_job(work_id)
    tracing.start("nextchar-worker")
    try:
        yield
    finally:
        tracing.stop()


@contextlib.contextmanager
def leased(live: Live, work_id: str) -> Iterator[str | None]:
    """Hold the lease of a job or batch for a block; give its token, or None if another process holds it."""
    token = secrets.token_hex(8)
    if not live.acquire_lease(work_id, token):
        log.info("another worker has the lease of %s", work_id)
        yield None
        return
    try:
        yield token
    finally:
        with contextlib.suppress(RedisError):  # then the lease expires
            live.release_lease(work_id, token)


def try_redis(call: Callable[[], T]) -> T | None:
    """Return the result of `call`, or None if Redis does not work: the work does not depend on it."""
    try:
        return call()
    except (RedisError, OSError) as error:
        log.debug("Redis does not work: %s", error)
        return None
