"""Metrics from the parts of an API process."""

import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.acceptance.figures import acceptance_metrics
from nextchar.app.http.limits import KeyLimits
from nextchar.app.jobs.room import TrainingCollector
from nextchar.app.logs.notifications.outbox import Health
from nextchar.app.logs.room import alert_metrics, ingest_metrics
from nextchar.app.models.engines import Engines
from nextchar.app.models.room import damaged_records, engine_metrics
from nextchar.app.openai.batch_control import batch_metrics
from nextchar.app.openai.batches import Batch, BatchStatus
from nextchar.app.operations.metrics import Collected, Metrics, gauge, service_metrics
from nextchar.models.errors import Unavailable
from nextchar.store.background import LoopStatus
from nextchar.store.jobs import JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs


def raising(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    return fail


RUNNING = SimpleNamespace(
    id="job_1", status=JobStatus.RUNNING, attempt=2, updated_at=900.0, request=SimpleNamespace(name="fox")
)
QUEUED = SimpleNamespace(id="job_2", status=JobStatus.QUEUED, updated_at=940.0)
PROGRESS = {
    "attempt": 2,
    "step": 30,
    "steps": 120,
    "characters_per_second": 61200,
    "train_bits_per_character": 2.5,
    "validation_bits_per_character": 3.5,
    "checkpoint_at": 990.0,
    "peak_memory_bytes": 1 << 30,
}

BATCH = Batch(
    id="batch_1",
    status=BatchStatus.IN_PROGRESS,
    endpoint="/v1/completions",
    input_file="corpus_1",
    completion_window="24h",
    created_at=960,
    expires_at=9999,
    chunk_sizes=(8, 2),
)


def made(**parts: Any) -> Metrics:
    """The metrics of parts that each have one of everything."""
    loop = LoopStatus("retention", "expired data is not deleted", 300.0, 1.5, 2.5, {"OSError": 3})
    ingested = SimpleNamespace(counts={"scored": 4}, waiting=3, bytes=200, oldest_age_s=1.5)
    engines = Engines(Models(open_blobs("memory:///")), raising(AssertionError()), limit_bytes=0)
    engines.stats = lambda: {"a@1": {"active": 2.0, "requests": 5}, "b@1": {}}  # type: ignore[method-assign]
    engines.steps_by_batch_size = lambda: {"a@1": [0, 2, 0, 1]}  # type: ignore[method-assign]
    defaults: dict[str, Any] = {
        "jobs": SimpleNamespace(all=lambda: [RUNNING, QUEUED]),
        "free_bytes": lambda: 1 << 30,
        "live": SimpleNamespace(
            progress={"job_1": PROGRESS}.get, attempts=lambda: {("failed", "diverged"): (2, 61.5)}
        ),
        "models": SimpleNamespace(scan=lambda: ([], ["damaged"])),
        "queue": SimpleNamespace(waiting=lambda: ["job_1"], live_workers=lambda: 3),
        "engines": engines,
        "data_dir": Path("/"),
        "ingest": SimpleNamespace(
            models=lambda: ["a"], status=lambda _: ingested, flagged=SimpleNamespace(bytes=lambda: {"a": 700})
        ),
        "alerts": SimpleNamespace(
            totals=lambda: ({("web", "info"): 5}, {("web", "info"): 1}), evictions=lambda: {"web": 3}
        ),
        "outbox": SimpleNamespace(
            outcomes=lambda: {("t", "failed"): 2, ("u", "failed"): 1, ("u", "delivered"): 1},
            health={
                "t": Health(waiting=0, dead=0, last_error_at=9.0),
                "u": Health(waiting=0, dead=0, last_success_at=8.0, last_error_at=7.0),
            }.__getitem__,
        ),
        "acceptance": SimpleNamespace(totals=lambda: {("a@1", "shown"): 5, ("a@1", "characters_saved"): 9}),
        "batches": SimpleNamespace(all=lambda: [BATCH], counts=lambda _: (5, 1)),
    }
    given = SimpleNamespace(**(defaults | parts))
    made = Metrics()
    blobs: Any = SimpleNamespace(free_bytes=given.free_bytes)
    loops: Any = [SimpleNamespace(status=lambda: loop)]
    for collector in (
        Collected(partial(service_metrics, loops, blobs, given.data_dir)),
        KeyLimits("redis://127.0.0.1:1/0").limited,
        Collected(lambda: [gauge("nextchar_api_keys_file_errors", "Problems.", 1)]),
        given.engines.first_character_s,
        Collected(partial(engine_metrics, given.engines)),
        Collected(damaged_records(given.models)),
        TrainingCollector(given.jobs, given.live, given.queue, lambda: 1000.0),
        Collected(partial(ingest_metrics, given.ingest)),
        Collected(partial(alert_metrics, given.alerts, given.outbox)),
        Collected(partial(acceptance_metrics, given.acceptance)),
        Collected(partial(batch_metrics, given.batches, lambda: 1000.0)),
    ):
        made.register(collector)
    return made


def metrics(**parts: Any) -> str:
    return made(**parts).exposition().decode()


def test_gauges_are_read_from_jobs_models_queue_engines_loops_and_keys() -> None:
    lines = metrics().splitlines()
    assert {
        'nextchar_jobs{status="running"} 1.0',
        'nextchar_jobs{status="paused"} 0.0',
        "nextchar_queue_depth 1.0",
        "nextchar_queue_oldest_seconds 60.0",
        "nextchar_workers 3.0",
        "nextchar_models_loaded 2.0",
        'nextchar_engine_active{model="a@1"} 2.0',
        'nextchar_engine_requests_total{model="a@1"} 5.0',
        'nextchar_damaged_records{kind="model"} 1.0',
        'nextchar_disk_free_bytes{of="storage"} 1.073741824e+09',
        'nextchar_background_errors_total{error="OSError",name="retention"} 3.0',
        "nextchar_api_keys_file_errors 1.0",
        'nextchar_ingest_flagged_bytes{model="a"} 700.0',
        'nextchar_alert_lines_total{model="web",severity="info"} 5.0',
        'nextchar_alerts_opened_total{model="web",severity="info"} 1.0',
        'nextchar_alerts_evicted_total{model="web"} 3.0',
        'nextchar_notifications_total{outcome="failed",target="t"} 2.0',
        'nextchar_notifications_failing{target="t"} 1.0',
        'nextchar_notifications_failing{target="u"} 0.0',
        'nextchar_suggestions_total{model="a@1",outcome="shown"} 5.0',
        'nextchar_suggestion_saved_characters_total{model="a@1"} 9.0',
    } <= set(lines)
    assert not any(line.startswith('nextchar_engine_active{model="b@1"}') for line in lines)


def test_a_running_job_has_its_workers_figures() -> None:
    job = 'job_id="job_1",model="fox"'
    assert {
        f"nextchar_training_running_seconds{{{job}}} 100.0",
        f"nextchar_training_characters_per_second{{{job}}} 61200.0",
        f"nextchar_training_progress_ratio{{{job}}} 0.25",
        f'nextchar_training_bits_per_character{{{job},of="train"}} 2.5',
        f'nextchar_training_bits_per_character{{{job},of="validation"}} 3.5',
        f"nextchar_training_checkpoint_age_seconds{{{job}}} 10.0",
        f"nextchar_training_peak_memory_bytes{{{job}}} 1.073741824e+09",
        f"nextchar_training_waiting_for_storage{{{job}}} 0.0",
        'nextchar_training_attempts_total{code="diverged",outcome="failed"} 2.0',
        'nextchar_training_attempts_total{code="worker_lost",outcome="lost"} 0.0',
        'nextchar_training_attempt_seconds_total{code="diverged",outcome="failed"} 61.5',
    } <= set(metrics().splitlines())


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    collected = {}
    for collector in made()._registry._collector_to_names:
        for family in collector.collect():
            labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            name = family.name + ("_total" if family.type == "counter" else "")
            collected[name] = (family.type, frozenset(labels))
    documented = {}
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE):
        assert name not in documented, f"{name} is documented twice"
        documented[name] = (kind, frozenset(re.findall(r"`(\w+)`", labels)))
    if sys.platform != "linux":  # prometheus_client reads these from /proc
        documented = {name: about for name, about in documented.items() if not name.startswith("process_")}
    assert documented == collected


def test_without_storage_or_redis_the_other_gauges_remain() -> None:
    gone = Unavailable("gone")
    without_storage = metrics(
        jobs=SimpleNamespace(all=raising(gone)),
        free_bytes=raising(gone),
        models=SimpleNamespace(scan=raising(OSError())),
    )
    assert "nextchar_storage_up 0.0" in without_storage and "nextchar_queue_depth 1.0" in without_storage
    assert "nextchar_jobs{" not in without_storage and "nextchar_damaged_records{" not in without_storage
    without_redis = metrics(queue=SimpleNamespace(waiting=raising(RedisConnectionError())))
    assert "nextchar_redis_up 0.0" in without_redis and "nextchar_queue_depth" not in without_redis
    assert "nextchar_storage_up 1.0" in without_redis
    without_alerts = metrics(alerts=SimpleNamespace(totals=raising(RedisConnectionError())))
    assert "nextchar_alert_lines" not in without_alerts and "nextchar_storage_up 1.0" in without_alerts


def test_batches_are_counted_by_status_with_the_requests_that_wait() -> None:
    text = metrics()
    assert 'nextchar_batches{status="in_progress"} 1.0' in text
    assert 'nextchar_batches{status="completed"} 0.0' in text
    assert "nextchar_batch_waiting_requests 4.0" in text
    assert "nextchar_batch_oldest_seconds 40.0" in text
    idle = metrics(batches=SimpleNamespace(all=list))
    assert "nextchar_batch_waiting_requests 0.0" in idle and "nextchar_batch_oldest_seconds 0.0" in idle
