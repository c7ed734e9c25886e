"""Readiness, metrics, retention, and the memory of the process; /healthz, /readyz and /metrics.

glibc keeps what is freed below other allocations. Under many clients that is hundreds of megabytes of arrays
of different sizes, which a process would hold until it ends. musl and macOS have no such call; there nothing
is done.
"""

import ctypes
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from fastapi import APIRouter, Response

from nextchar.app.http.errors import error_responses
from nextchar.app.http.limits import HEALTH
from nextchar.app.http.rules import needs, needs_no_key
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.operations.metrics import CONTENT_TYPE, Collected, Metrics, service_metrics
from nextchar.app.operations.readiness import Alive, Readiness, ReadinessCheck
from nextchar.app.operations.retention import Retention, RetentionSettings, remove_stale_uploads
from nextchar.app.room import Room
from nextchar.store.background import BackgroundLoop
from nextchar.store.installation import RENEW_S, Installation
from nextchar.store.open_blobs import is_object_store

router = APIRouter(tags=["operations"])

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "model": Readiness,
        "description": "The storage cannot be read, or the kernels are not loaded yet.",
        "content": {
            "application/json": {
                "example": {
                    "status": "not_ready",
                    "down": ["storage"],
                    "degraded": [
                        {
                            "part": "storage",
                            "problem": "does not respond",
                            "effect": "models that are not in memory cannot be served",
                        }
                    ],
                    "background": [],
                }
            }
        },
    }
}
_EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "nextchar_redis_up 1.0\n"}},
    }
}


@router.get("/healthz", responses=error_responses())
@needs_no_key
async def healthz(response: Response) -> Alive:
    """Report that the process is running; nothing else is checked."""
    # The JavaScript client asks from pages that may make no other call, to say why these fail.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return Alive()


@router.get("/readyz", responses=error_responses() | _NOT_READY)
@needs_no_key
async def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Report whether models can be served, and which parts do not work.

    The status is 503 if the storage cannot be read, and at the start until the compiled kernels are loaded.
    Without Redis or a worker jobs wait, and the response is 200 with the status `degraded`.
    """
    check = services[ReadinessCheck]
    report = await anyio.to_thread.run_sync(check.report, limiter=services.pools.limiter(HEALTH))
    response.status_code = 503 if report.status == "not_ready" else 200
    return report


@router.get("/metrics", response_class=Response, responses=_EXPOSITION | error_responses(503))
@needs("read", is_about_all=True)
def metrics(services: ServicesDep) -> Response:
    """Get the metrics for Prometheus."""
    return Response(services[Metrics].exposition(), media_type=CONTENT_TYPE)


TRIM_S = 4.0
"""Interval between two calls of `trim_heap`: the more memory a call gives back, the longer it blocks other
threads."""

_RETENTION_S = 300.0


def trim_heap() -> None:
    """Give back all free pages of the heap. Takes milliseconds, without Python's lock."""
    if _malloc_trim:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found


_malloc_trim = _find_malloc_trim()


def _open(services: Services) -> None:
    settings, blobs = services.settings_of(RetentionSettings), services.blobs
    remove_stale_uploads(settings.spool, now=time.time())
    metrics = services.add(Metrics())
    metrics.register(Collected(partial(service_metrics, services.loops, blobs, settings.data_dir)))
    services.tasks.append(metrics.watch_loop)
    services.add(
        ReadinessCheck(
            blobs=blobs,
            redis=services.redis,
            queue=services.queue,
            loops=services.loops,
            watermark=services.watermark,
            kernels_loaded=services.kernels_loaded,
        )
    )
    retention = services.add(Retention(blobs, services.jobs, settings, spool=settings.spool))
    loop = BackgroundLoop(
        "retention", retention.sweep, interval_s=_RETENTION_S, effect="expired data is not deleted"
    )
    retention.on_progress = loop.beat
    effect = "freed memory is not given back to the system"
    services.loops += (loop, BackgroundLoop("memory", trim_heap, interval_s=TRIM_S, effect=effect))
    if is_object_store(settings.blobs_url):
        renew = Installation(blobs, services.redis).renew
        effect = "another installation may be using the storage, and its records"
        services.loops.append(BackgroundLoop("installation", renew, interval_s=RENEW_S, effect=effect))


OPERATIONS = Room("operations", _open, (router,), RetentionSettings, is_strict=False)
