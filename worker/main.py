"""The worker process: `python -m nextchar.worker.main`. It trains, or by NEXTCHAR_QUEUE runs batches.

The parent receives messages and supervises the child that works. It imports no TensorFlow and uses no object
storage, because the child is forked and obstore's threads do not survive a fork. It compiles the kernels
(`nextchar.worker.warm_up`) before it takes work.

If Redis does not work (unavailable, loading, full, read-only), the parent waits and the child keeps working.
On SIGTERM or Ctrl-C the child saves what is done and gives its work back to the queue; then both exit.
With NEXTCHAR_MAX_JOBS the parent exits by itself, for platforms that start a worker per job.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job as RQJob
from rq.worker import Worker

from nextchar.store import installation
from nextchar.store.live import Live
from nextchar.store.logs import configure_logging
from nextchar.store.open_blobs import is_object_store
from nextchar.store.queue import (
    BATCH_QUEUE_NAME,
    PARENT_PID,
    QUEUE_NAME,
    STOP_SIGNAL,
    AllowedJob,
    connect,
    rq_queue,
)
from nextchar.worker.settings import WorkerSettings
from nextchar.worker.warm_up import warm_up

log = logging.getLogger("nextchar.worker")

_MONITORING_S = 5
_WORKER_TTL_S = 30
_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 10.0  # for Redis, and after errors
_STABLE_S = 60.0  # running this long resets the waits
_LOG_EVERY_S = 60.0
_REDIS_TIMEOUT_S = 5.0  # RQ extends it by its waiting time


class QueueWorker(Worker):
    """RQ's forking worker, with a graceful shutdown.

    Work depends on its record and its lease, which the child renews, and not on RQ's bookkeeping. So Redis
    errors in RQ are logged and do not end this process, which would kill the child.
    """

    max_connection_wait_time = _MAX_WAIT_S  # of RQ's own waiting for Redis
    jobs_taken = 0
    has_lost_redis = False  # its loop ended because of that
    is_stopping = False  # a signal has requested a shutdown

    def subscribe(self) -> None:
        """Do not listen to commands: a writer to Redis could stop jobs with them."""

    def unsubscribe(self) -> None:
        """Do nothing."""

    def check_for_suspension(self, burst: bool) -> None:
        """Wait while RQ's workers are suspended. Raises StopRequested on Redis errors."""
        with self._stop_if_redis_fails():
            super().check_for_suspension(burst)

    def run_maintenance_tasks(self) -> None:
        """Clean up RQ's registries. Raises StopRequested on Redis errors."""
        with self._stop_if_redis_fails():
            super().run_maintenance_tasks()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RQJob, Queue] | None:
        """Wait for a message and return it. Raises StopRequested on Redis errors."""
        if self.is_stopping:  # the exception of the signal handler was lost, e.g. in a `__del__`
            raise StopRequested
        with self._stop_if_redis_fails():
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: RQJob, queue: Queue) -> None:
        """Work in a child and wait for it. Raises StopRequested on Redis errors before or after."""
        self.jobs_taken += 1
        with self._stop_if_redis_fails():
            super().execute_job(job, queue)

    @contextlib.contextmanager
    def _stop_if_redis_fails(self) -> Iterator[None]:
        """End RQ's loop on Redis errors: `work` then waits for Redis and starts another."""
        try:
            yield
        except RedisError as error:
            self.has_lost_redis = True
            log.warning("Redis does not work: %s", error)
            raise StopRequested from error

    def handle_warm_shutdown_request(self) -> None:
        """Signal the child to give its job back; RQ then waits for it to exit."""
        self.is_stopping = True
        super().handle_warm_shutdown_request()
        if self.horse_pid:
            os.kill(self.horse_pid, STOP_SIGNAL)

    def set_shutdown_requested_date(self) -> None:
        """Record in Redis that this worker is stopping."""
        with _redis_may_fail("the shutdown of this worker is not recorded"):
            super().set_shutdown_requested_date()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew the entry of this worker in RQ's list."""
        with _redis_may_fail("the entry of this worker is not renewed"):
            super().heartbeat(timeout, pipeline)

    def maintain_heartbeats(self, job: RQJob, execution: Execution) -> None:
        """Renew RQ's entries of the job."""
        with _redis_may_fail("the work continues"):
            super().maintain_heartbeats(job, execution)

    def fork_work_horse(self, job: RQJob, queue: Queue) -> None:
        """Start the child, and remember the number of out-of-memory kills before."""
        self._memory_kills = count_memory_kills()
        os.environ[PARENT_PID] = str(os.getpid())
        super().fork_work_horse(job, queue)
        if self.is_stopping:  # the signal came before the child existed
            os.kill(self.horse_pid, STOP_SIGNAL)

    def handle_work_horse_killed(self, job: RQJob, _retpid: int, ret_val: int, _rusage: Any) -> None:
        """Record the death of a child, for the message of the reconciler."""
        if not os.WIFSIGNALED(ret_val) or os.WTERMSIG(ret_val) == STOP_SIGNAL:
            return
        number, out_of_memory = os.WTERMSIG(ret_val), count_memory_kills() > self._memory_kills
        log.warning(
            "%s: the process that worked on it was killed by signal %d%s",
            job.args[0],
            number,
            "; the kernel ran out of memory at that time" if out_of_memory else "",
        )
        with _redis_may_fail("the kill is not recorded"):
            Live(self.connection).add_kill(
                job.args[0], {"at": time.time(), "signal": number, "out_of_memory": out_of_memory}
            )

    def handle_job_failure(self, *arguments: Any, **options: Any) -> None:
        """Record in Redis that a message failed."""
        with _redis_may_fail("the failure of a message is not recorded"):
            super().handle_job_failure(*arguments, **options)

    def register_death(self) -> None:
        """Remove this worker from RQ's list."""
        with _redis_may_fail("the entry of this worker will expire"):
            super().register_death()

    def setup_work_horse_signals(self) -> None:
        """Ignore SIGTERM and Ctrl-C in the child: only the parent acts on them."""
        super().setup_work_horse_signals()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _redis_may_fail(consequence: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        log.info("Redis does not work (%s); %s", error, consequence)


def count_memory_kills() -> int:
    """Return the number of out-of-memory kills on this machine or in this container; 0 if unknown.

    The count does not say which processes were killed.
    """
    counts = []
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in Path(path).read_text().splitlines())
            counts.append(int(fields.get("oom_kill", 0)))
    return sum(counts)


def _check_storage(settings: WorkerSettings) -> None:
    """Check the object store, if it is one, in a child process; exit with its status if that is not 0."""
    if not is_object_store(settings.blobs_url):
        return
    _wait_for_redis(settings.redis_url)
    if status := subprocess.run([sys.executable, "-m", installation.__name__], check=False).returncode:
        raise SystemExit(status)


def make_worker(redis: Redis, queue: str = QUEUE_NAME) -> QueueWorker:
    """Return a worker for a queue on a connection that does not decode responses."""
    return QueueWorker(
        [rq_queue(redis, queue)],
        connection=redis,
        serializer="json",
        job_class=AllowedJob,
        job_monitoring_interval=_MONITORING_S,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=10,
    )


def work(redis_url: str, *, queue: str = QUEUE_NAME, max_jobs: int = 0) -> None:
    """Work until SIGTERM or SIGINT; with `max_jobs` until that many jobs have ended or none waits.

    After an error, start a new RQ worker. The pauses before that grow while workers fail quickly.
    """
    pause_s, jobs_left = _FIRST_WAIT_S, max_jobs
    try:
        while True:
            _stop_on_signals()
            _wait_for_redis(redis_url)
            began_s = time.monotonic()
            try:
                with connect(redis_url, socket_timeout=_REDIS_TIMEOUT_S) as redis:
                    worker = make_worker(redis, queue)
                    # Returns on shutdown, after errors, and with `max_jobs` when it is done.
                    worker.work(logging_level="WARNING", burst=max_jobs > 0, max_jobs=jobs_left or None)
                    jobs_left -= worker.jobs_taken
                    is_done = max_jobs > 0 and (jobs_left <= 0 or not worker.has_lost_redis)
                    if worker.is_stopping or is_done:
                        return
            except RedisError as error:
                log.warning("Redis does not work: %s", error)
            _stop_on_signals()  # RQ had installed its own handlers
            if time.monotonic() - began_s >= _STABLE_S:
                pause_s = _FIRST_WAIT_S
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_WAIT_S)
    except (StopRequested, KeyboardInterrupt):
        return


def _wait_for_redis(redis_url: str) -> None:
    wait_s, logged_at = _FIRST_WAIT_S, -_LOG_EVERY_S
    with connect(redis_url, socket_timeout=_REDIS_TIMEOUT_S) as redis:
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


def _stop_on_signals() -> None:
    """Have SIGTERM and SIGINT raise StopRequested."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def _stop(*_: object) -> None:
    raise StopRequested


def main() -> None:
    """Run the worker until it is stopped."""
    settings = WorkerSettings.load()
    trains = settings.queue == "training"
    configure_logging(settings)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    # It logs messages of killed workers as failed, but the reconciler decides about their jobs.
    logging.getLogger("rq.registry").setLevel(logging.ERROR)
    log.info("loading kernels; compiling them takes some seconds the first time on a machine")
    try:
        _stop_on_signals()  # also ends the compiler
        _check_storage(settings)
        warm_up(settings.data_dir, trains=trains)
    except StopRequested:
        return
    log.info("waiting for %s", f"jobs; will train on {settings.cores} cores" if trains else "batches")
    work(settings.redis_url, queue=QUEUE_NAME if trains else BATCH_QUEUE_NAME, max_jobs=settings.max_jobs)


if __name__ == "__main__":
    main()
