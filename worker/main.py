"""Starts one RQ worker: `python -m worker.main`.

This parent process takes messages and watches over the child that trains. It imports no TensorFlow,
and it touches no object storage: the child is forked, and obstore's threads would not survive that.
Before it takes a job, the kernels are compiled (`worker.warm_up`), so that no job waits for that.

Whatever is wrong with Redis (away, loading, full, read-only), the parent waits for it, and never leaves a
child that trains. On SIGTERM or Ctrl-C the child keeps a checkpoint and gives its job back, then both leave.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job as RQJob
from rq.worker import Worker

from store.live import Live
from store.logs import configure_logging
from store.queue import AllowedJob, rq_queue
from worker.settings import WorkerSettings
from worker.warm_up import warm_up

log = logging.getLogger("nextchar.worker")

STOP_SIGNAL = signal.SIGUSR1
"""Sent to the child: keep a checkpoint, give the job back to the queue, exit."""

PARENT_PID = "TRAINING_PARENT_PID"
"""The environment variable in which the child finds the process id of its parent."""

_MONITORING_S = 5
_WORKER_TTL_S = 30
_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 10.0  # for Redis, and after an error
_STABLE_S = 60.0  # a worker that worked for so long ends a series of errors
_LOG_EVERY_S = 60.0
_REDIS_TIMEOUT_S = 5.0


class TrainingWorker(Worker):
    """RQ's forking worker, with a gentle shutdown.

    RQ's bookkeeping may fail: a job's lease, which the child renews, and its record are what counts. So
    errors of Redis are logged wherever they would end this process, and with it a child that trains.
    """

    max_connection_wait_time = _MAX_WAIT_S  # RQ's own, where Redis does not answer

    @property
    def is_told_to_stop(self) -> bool:
        """Whether a signal has asked this worker to stop."""
        return self._shutdown_requested_date is not None

    def subscribe(self) -> None:
        """Listen to no commands: nothing sends any, and a writer to Redis could stop jobs with them."""

    def unsubscribe(self) -> None:
        """There is nothing to unsubscribe from."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RQJob, Queue] | None:
        """Wait for a message and return it. Raises StopRequested where Redis refuses."""
        if self.is_told_to_stop:  # and what a signal handler raised was lost on its way, in a `__del__` say
            raise StopRequested
        with _stop_if_redis_fails():
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: RQJob, queue: Queue) -> None:
        """Train in a child and wait for its end. Raises StopRequested where Redis refuses before or after."""
        with _stop_if_redis_fails():
            super().execute_job(job, queue)

    def handle_warm_shutdown_request(self) -> None:
        """Tell the child to give its job back; RQ then waits for it to exit."""
        super().handle_warm_shutdown_request()
        if self.horse_pid:
            os.kill(self.horse_pid, STOP_SIGNAL)

    def set_shutdown_requested_date(self) -> None:
        """Note in Redis that this worker is to stop."""
        with _redis_may_fail("this worker's shutdown is not noted"):
            super().set_shutdown_requested_date()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew this worker's entry in RQ's list."""
        with _redis_may_fail("this worker's entry is not renewed"):
            super().heartbeat(timeout, pipeline)

    def maintain_heartbeats(self, job: RQJob, execution: Execution) -> None:
        """Renew RQ's entries of the job."""
        with _redis_may_fail("training goes on"):
            super().maintain_heartbeats(job, execution)

    def fork_work_horse(self, job: RQJob, queue: Queue) -> None:
        """Start the child, and remember how often the kernel has killed for want of memory before."""
        self._memory_kills = memory_kills()
        os.environ[PARENT_PID] = str(os.getpid())
        super().fork_work_horse(job, queue)
        if self.is_told_to_stop:  # before there was a child to tell
            os.kill(self.horse_pid, STOP_SIGNAL)

    def handle_work_horse_killed(self, job: RQJob, _retpid: int, ret_val: int, _rusage: Any) -> None:
        """Keep what is known of a child's death, for the one who has to say why its job did not go on."""
        if not os.WIFSIGNALED(ret_val) or os.WTERMSIG(ret_val) == STOP_SIGNAL:
            return
        number, out_of_memory = os.WTERMSIG(ret_val), memory_kills() > self._memory_kills
        log.warning(
            "%s: the process that trained it was killed by signal %d%s",
            job.args[0],
            number,
            "; the kernel killed for want of memory meanwhile" if out_of_memory else "",
        )
        with _redis_may_fail("the kill is not remembered"):
            Live(self.connection).add_kill(
                job.args[0], {"at": time.time(), "signal": number, "out_of_memory": out_of_memory}
            )

    def handle_job_failure(self, *arguments: Any, **options: Any) -> None:
        """Note in Redis that a message's job has ended badly."""
        with _redis_may_fail("the end of a message is not noted"):
            super().handle_job_failure(*arguments, **options)

    def register_death(self) -> None:
        """Take this worker out of RQ's list."""
        with _redis_may_fail("this worker's entry runs out by itself"):
            super().register_death()

    def setup_work_horse_signals(self) -> None:
        """In the child: Ctrl-C reaches the whole group, but only the parent may act on it."""
        super().setup_work_horse_signals()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _redis_may_fail(consequence: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        log.info("Redis does not work (%s); %s", error, consequence)


@contextlib.contextmanager
def _stop_if_redis_fails() -> Iterator[None]:
    """End RQ's loop quietly: `work` then waits for Redis and begins another."""
    try:
        yield
    except RedisError as error:
        log.warning("Redis does not work: %s", error)
        raise StopRequested from error


def memory_kills() -> int:
    """Return how often the kernel has killed a process for want of memory, here or in this container.

    0 where it does not say. Whom it killed, the count does not tell.
    """
    counts = []
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in Path(path).read_text().splitlines())
            counts.append(int(fields.get("oom_kill", 0)))
    return sum(counts)


def make_worker(redis: Redis) -> TrainingWorker:
    """Return a worker for the training queue on a connection that does not decode responses."""
    return TrainingWorker(
        [rq_queue(redis)],
        connection=redis,
        serializer="json",
        job_class=AllowedJob,
        job_monitoring_interval=_MONITORING_S,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=10,
    )


def work(redis_url: str) -> None:
    """Work until told to stop by SIGTERM or SIGINT, with a new RQ worker after each that an error has ended.

    One that is ended at once, again and again, is replaced after pauses that grow.
    """
    pause_s = _FIRST_WAIT_S
    try:
        while True:
            _stop_on_signals()
            _wait_for_redis(redis_url)
            began_s = time.monotonic()
            try:
                with _connect(redis_url) as redis:
                    worker = make_worker(redis)
                    worker.work(logging_level="WARNING")  # returns when told to stop, and after any error
                    if worker.is_told_to_stop:
                        return
            except RedisError as error:
                log.warning("Redis does not work: %s", error)
            _stop_on_signals()  # the worker that has ended had its own handlers
            if time.monotonic() - began_s >= _STABLE_S:
                pause_s = _FIRST_WAIT_S
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_WAIT_S)
    except (StopRequested, KeyboardInterrupt):
        return


def _wait_for_redis(redis_url: str) -> None:
    """Return when Redis answers and takes writes."""
    wait_s, logged_at = _FIRST_WAIT_S, -_LOG_EVERY_S
    with _connect(redis_url) as redis:
        while True:
            try:
                Live(redis).check_writable()
                return
            except (RedisError, OSError) as error:
                if time.monotonic() - logged_at >= _LOG_EVERY_S:
                    logged_at = time.monotonic()
                    log.warning("waiting for Redis: %s", error)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_WAIT_S)


def _connect(url: str) -> Redis:
    # One more try at once, for a connection that died while it was idle; waiting is ours. RQ lengthens the
    # timeout by how long it waits for a message.
    return Redis.from_url(
        url,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )


def _stop_on_signals() -> None:
    """Have SIGTERM and SIGINT raise StopRequested."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def _stop(*_: object) -> None:
    raise StopRequested


def main() -> None:
    """Work until told to stop."""
    settings = WorkerSettings.load()
    configure_logging(settings)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    # It calls every message whose worker was killed failed; what becomes of the job, the reconciler logs.
    logging.getLogger("rq.registry").setLevel(logging.ERROR)
    log.info("loading kernels; the first time on a machine they are compiled, which can take a minute")
    try:
        _stop_on_signals()  # which ends the compiler as well
        warm_up(settings.data_dir)
    except StopRequested:
        return
    log.info("waiting for jobs; training on %d cores", settings.cores)
    work(settings.redis_url)


if __name__ == "__main__":
    main()
