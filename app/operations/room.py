"""Readiness, metrics, retention, and the memory of the process.

glibc keeps what is freed below other allocations. Under many clients that is hundreds of megabytes of arrays
of different sizes, which a process would hold until it ends. musl and macOS have no such call; there nothing
is done.
"""

import ctypes
import time
from collections.abc import Callable

from pydantic import Field

from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.services import Services
from nextchar.app.operations import routes
from nextchar.app.operations.metrics import Metrics, ServiceCollector
from nextchar.app.operations.readiness import ReadinessCheck
from nextchar.app.operations.retention import Retention, RetentionPeriods, remove_stale_uploads
from nextchar.app.room import Room
from nextchar.store.background import BackgroundLoop
from nextchar.store.installation import RENEW_S, Installation
from nextchar.store.open_blobs import is_object_store

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


class RetentionSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    failed_checkpoint_days: float = Field(
        7.0,
        ge=0,
        description="Days for which a failed job keeps its last checkpoint, for resuming; 0: forever.",
    )
    job_retention_days: float = Field(
        90.0,
        ge=0,
        description="Days for which the record and the events of a finished job are kept; 0: forever.",
    )
    idempotency_retention_days: float = Field(
        7.0, ge=0, description="Days for which an Idempotency-Key is remembered; 0: forever."
    )
    audit_retention_days: float = Field(
        365.0, ge=0, description="Days for which entries of the audit trail are kept; 0: forever."
    )
    corpus_retention_days: float = Field(
        0.0,
        ge=0,
        description="Days after its last upload for which a corpus is kept that no job, model or batch names;"
        " 0: forever.",
    )


def _open(services: Services) -> None:
    settings, blobs = services.settings_of(RetentionSettings), services.blobs
    spool = settings.data_dir / "spool"
    remove_stale_uploads(spool, now=time.time())
    metrics = services.add(Metrics())
    metrics.register(ServiceCollector(services.loops, blobs, settings.data_dir))
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
    retention = services.add(Retention(blobs, services.jobs, periods=_periods(settings), spool=spool))
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


def _periods(settings: RetentionSettings) -> RetentionPeriods:
    return RetentionPeriods(
        failed_checkpoint_days=settings.failed_checkpoint_days,
        job_days=settings.job_retention_days,
        idempotency_days=settings.idempotency_retention_days,
        audit_days=settings.audit_retention_days,
        corpus_days=settings.corpus_retention_days,
    )


OPERATIONS = Room("operations", _open, (routes.router,), RetentionSettings, is_strict=False)
