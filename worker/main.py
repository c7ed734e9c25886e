"""Starts one RQ worker: `python -m worker.main`.

This parent process takes messages and watches over the child that trains. It imports no TensorFlow,
and it touches no object storage: the child is forked, and obstore's threads would not survive that.
Before it takes a job, the kernels are compiled (`worker.warm_up`), so that no job waits for that.

On SIGTERM or Ctrl-C the child keeps a checkpoint and gives its job back, then both leave.
"""

import logging
import os
import signal
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.executions import Execution
from rq.job import Job as RQJob
from rq.worker import Worker

from store.queue import AllowedJob, rq_queue
from worker.settings import WorkerSettings
from worker.warm_up import warm_up

log = logging.getLogger("nextchar.worker")

STOP_SIGNAL = signal.SIGUSR1
"""Sent to the child: keep a checkpoint, give the job back to the queue, exit."""

_MONITORING_S = 5
_WORKER_TTL_S = 30


class TrainingWorker(Worker):
    """RQ's forking worker, with a gentle shutdown and no fear of a Redis that is away for a while."""

    def handle_warm_shutdown_request(self) -> None:
        """Tell the child to give its job back; RQ then waits for it to exit."""
        super().handle_warm_shutdown_request()
        if self.horse_pid:
            os.kill(self.horse_pid, STOP_SIGNAL)

    def maintain_heartbeats(self, job: RQJob, execution: Execution) -> None:
        """Renew RQ's own bookkeeping; the job's lease is what counts, and the child renews that."""
        try:
            super().maintain_heartbeats(job, execution)
        except (RedisConnectionError, RedisTimeoutError) as error:
            log.warning("Redis is away (%s); training goes on", error)

    def setup_work_horse_signals(self) -> None:
        """In the child: Ctrl-C reaches the whole group, but only the parent may act on it."""
        super().setup_work_horse_signals()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


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


def main() -> None:
    """Work until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    settings = WorkerSettings.load()
    log.info("loading kernels; the first time on a machine they are compiled, which can take a minute")
    warm_up(settings.data_dir)
    redis: Any = Redis.from_url(settings.redis_url)
    log.info("waiting for jobs; training on %d cores", settings.cores)
    make_worker(redis).work(logging_level="WARNING")


if __name__ == "__main__":
    main()
