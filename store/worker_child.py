"""What the child processes of workers share, whatever their queue."""

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from nextchar.store.live import Live

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


def connect(url: str, *, timeout_s: float, decode_responses: bool = False) -> Redis:
    """Return a client with one immediate retry, for a connection that died while idle."""
    return Redis.from_url(
        url,
        decode_responses=decode_responses,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1),
    )


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if str(os.getppid()) != os.environ.get(PARENT_PID):  # the parent died before the call
            os._exit(1)


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
