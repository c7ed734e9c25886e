"""OpenAI's and llama.cpp's protocols, as translations; batches."""

from functools import partial

from nextchar.app.http.services import Services
from nextchar.app.openai import batch_control, completions, files, jobs, llama_cpp
from nextchar.app.openai.batch_control import (
    RECONCILE_S,
    BatchControl,
    batch_metrics,
    delete_due,
    to_copy,
    used_corpora,
)
from nextchar.app.openai.batches import Batches
from nextchar.app.operations.metrics import STORAGE_READ_S, BoundedRead, Collected, Metrics
from nextchar.app.operations.readiness import Problem, ReadinessCheck
from nextchar.app.operations.retention import Retention, RetentionSettings
from nextchar.app.room import Folder, Room
from nextchar.store.background import BackgroundLoop
from nextchar.store.queue import BatchQueue

_NO_WORKER = Problem(
    "worker", "no worker of batches is running (NEXTCHAR_QUEUE=batches)", "batches wait until there is one"
)


def _open(services: Services) -> None:
    blobs, queue = services.blobs, BatchQueue(services.connect())
    batches = services.add(Batches(blobs, services.redis))
    control = services.add(BatchControl(blobs, batches, queue))
    read = BoundedRead(partial(batch_metrics, batches), STORAGE_READ_S)
    services[Metrics].register(Collected(read))
    services[ReadinessCheck].redis_checks.append(partial(without_worker, queue))
    retention, days = services[Retention], services.settings_of(RetentionSettings).job_retention_days
    retention.add("batches", lambda now: delete_due(batches, blobs, days, now))
    retention.corpus_users.append(partial(used_corpora, batches, blobs))
    effect = "batches whose worker or message was lost are not queued again"
    services.loops.append(
        BackgroundLoop("batches", control.queue_lost, interval_s=RECONCILE_S, effect=effect)
    )


def without_worker(queue: BatchQueue) -> list[Problem]:
    """Return the problem that batches wait and no worker takes them, if it is so."""
    return [_NO_WORKER] if queue.waiting() and not queue.live_workers() else []


OPENAI = Room(
    "openai",
    _open,
    (
        completions.router,
        llama_cpp.router,
        llama_cpp.tokenizer_router,
        files.router,
        jobs.router,
        batch_control.router,
    ),
    folders=(
        Folder("openai_jobs", ["jobs"]),
        Folder("openai_joined", ["corpora"]),
        Folder("openai_files", ["corpora"]),
        Folder("batches", ["corpora", "model_cards", "batch_chunks"], choose=to_copy),
        Folder("batch_chunks"),
    ),
    is_strict=False,  # its clients may send query parameters that we do not know
)
