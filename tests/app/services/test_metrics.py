"""Metrics from the parts of an API process."""

from types import SimpleNamespace
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from app.services.metrics import Metrics
from models.errors import Unavailable
from store.background import LoopStatus
from store.jobs import JobStatus


def raising(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    return fail


def metrics(**parts: Any) -> str:
    loop = LoopStatus("retention", 300.0, 1.5, 2.5, {"OSError": 3})
    defaults: dict[str, Any] = {
        "jobs": SimpleNamespace(all=lambda: [SimpleNamespace(status=JobStatus.RUNNING)] * 2),
        "models": SimpleNamespace(survey=lambda: ([], ["damaged"])),
        "queue": SimpleNamespace(waiting=lambda: ["job_1"]),
        "engines": SimpleNamespace(stats=lambda: {"a@1": {"active": 2.0}, "b@1": {"other": 1.0}}),
        "loops": [SimpleNamespace(status=lambda: loop)],
        "ingest": SimpleNamespace(models=list),
        "alerts": SimpleNamespace(totals=lambda: ({("web", "info"): 5}, {("web", "info"): 1})),
        "notifications": SimpleNamespace(outcomes=lambda: {("t", "failed"): 2}),
        "rolling": SimpleNamespace(counts=lambda: {("a", "held"): 2}),
        "keys": SimpleNamespace(problems=("a line",)),
    }
    return Metrics(**(defaults | parts)).exposition().decode()


def test_gauges_are_read_from_jobs_models_queue_engines_loops_and_keys() -> None:
    lines = metrics().splitlines()
    assert {
        'nextchar_jobs{status="running"} 2.0',
        'nextchar_jobs{status="queued"} 0.0',
        "nextchar_queue_depth 1.0",
        "nextchar_models_loaded 2.0",
        'nextchar_engine_active{model="a@1"} 2.0',
        'nextchar_damaged_records{kind="model"} 1.0',
        'nextchar_background_errors_total{error="OSError",name="retention"} 3.0',
        "nextchar_api_keys_file_errors 1.0",
        'nextchar_alert_lines_total{model="web",severity="info"} 5.0',
        'nextchar_alerts_opened_total{model="web",severity="info"} 1.0',
        'nextchar_notifications_total{outcome="failed",target="t"} 2.0',
        'nextchar_ingest_recalibrations_total{model="a",outcome="held"} 2.0',
    } <= set(lines)
    assert not any(line.startswith('nextchar_engine_active{model="b@1"}') for line in lines)


def test_without_storage_or_redis_the_other_gauges_remain() -> None:
    without_storage = metrics(
        jobs=SimpleNamespace(all=raising(Unavailable("gone"))),
        models=SimpleNamespace(survey=raising(OSError())),
    )
    assert "nextchar_storage_up 0.0" in without_storage and "nextchar_queue_depth 1.0" in without_storage
    assert "nextchar_jobs{" not in without_storage and "nextchar_damaged_records{" not in without_storage
    without_redis = metrics(queue=SimpleNamespace(waiting=raising(RedisConnectionError())))
    assert "nextchar_redis_up 0.0" in without_redis and "nextchar_queue_depth" not in without_redis
    assert "nextchar_storage_up 1.0" in without_redis
    without_alerts = metrics(alerts=SimpleNamespace(totals=raising(RedisConnectionError())))
    assert "nextchar_alert_lines" not in without_alerts and "nextchar_storage_up 1.0" in without_alerts


def test_each_application_has_its_own_registry() -> None:
    first, second = (
        Metrics(
            jobs=SimpleNamespace(all=list),  # type: ignore[arg-type]
            models=SimpleNamespace(survey=lambda: ([], [])),  # type: ignore[arg-type]
            queue=SimpleNamespace(waiting=list),  # type: ignore[arg-type]
            engines=SimpleNamespace(stats=dict),  # type: ignore[arg-type]
            loops=[],
            ingest=SimpleNamespace(models=list),  # type: ignore[arg-type]
            alerts=SimpleNamespace(totals=lambda: ({}, {})),  # type: ignore[arg-type]
            notifications=SimpleNamespace(outcomes=dict),  # type: ignore[arg-type]
            rolling=SimpleNamespace(counts=dict),  # type: ignore[arg-type]
        )
        for _ in range(2)
    )
    first.requests.labels("GET", "/", "200").inc()
    assert b'nextchar_http_requests_total{method="GET"' in first.exposition()
    assert b'nextchar_http_requests_total{method="GET"' not in second.exposition()
