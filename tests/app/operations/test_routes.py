import errno
import re
import threading
from pathlib import Path

import httpx
import pytest
from redis import Redis
from rq.worker import Worker

from nextchar.app.jobs import room
from nextchar.app.jobs.reconcile import Reconciler
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.store.queue import rq_queue
from tests.app.fakes import publish
from tests.app.service import NO_TLS, Service, error_of, served, serving, until


def test_healthy_service_is_alive_and_ready(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    register_worker(service.settings.redis_url)
    answer = service.http.get("/readyz")
    found = answer.json()
    loops = found.pop("background")
    assert (answer.status_code, found) == (200, {"status": "ready", "down": [], "degraded": []})
    names = ["retention", "memory", "reconciler", "notifications", "ingest scoring", "batches"]
    assert [loop["name"] for loop in loops] == names
    assert all(loop["last_beat_s"] < 30 and loop["errors"] == {} for loop in loops)


def register_worker(redis_url: str) -> None:
    """Let Redis know of a worker, as one that starts does."""
    with Redis.from_url(redis_url) as redis:
        Worker([rq_queue(redis)], connection=redis, serializer="json").register_birth()


def test_without_redis_the_service_is_degraded_and_stays_ready_to_serve(settings: ApiSettings) -> None:
    # Not 503, as it once was: completions go on, and a load balancer must not take them away.
    down = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with serving(down) as service:
        publish(service.models)
        answer = service.http.get("/readyz")
        assert (answer.status_code, answer.json()["status"], answer.json()["down"]) == (
            200,
            "degraded",
            ["redis"],
        )
        assert service.http.post("/v1/models/fake/complete", json={"prompt": ""}).status_code == 200
        assert service.http.get("/healthz").status_code == 200
        assert "nextchar_redis_up 0.0" in service.http.get("/metrics").text


def test_unusable_storage_is_reported(service: Service) -> None:
    store = Path(service.settings.data_dir) / "store"
    store.rename(store.with_name("elsewhere"))
    store.write_text("a file where the folder was")
    answer = service.http.get("/readyz")
    assert (answer.status_code, answer.json()["down"]) == (503, ["storage"])
    assert answer.json()["status"] == "not_ready"
    assert error_of(service.http.get("/v1/corpora/nobody"), 503)["code"] == "storage_unavailable"
    metrics = service.http.get("/metrics").text
    assert "nextchar_storage_up 0.0" in metrics and "nextchar_background_last_beat_seconds" in metrics


def test_a_process_is_alive_and_not_ready_until_its_kernels_are_loaded(settings: ApiSettings) -> None:
    loaded = threading.Event()
    app = create_app(settings, kernels_loaded=loaded)
    with served(app) as url, httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as http:
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()["down"]) == (503, ["kernels"])
        assert "kernels" in [problem["part"] for problem in answer.json()["degraded"]]
        assert http.get("/healthz").status_code == 200
        loaded.set()
        assert http.get("/readyz").status_code == 200


def test_metrics_have_requests_jobs_queue_and_engines(service: Service) -> None:
    publish(service.models)
    service.http.post("/v1/models/fake/complete", json={"prompt": ""})
    job = service.submit()
    service.submit()
    service.http.post(f"/v1/jobs/{job}/cancel")
    service.http.get("/nowhere")
    answer = service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", answer.text, re.MULTILINE))
    assert values['nextchar_jobs{status="queued"}'] == "1.0"
    assert values['nextchar_jobs{status="cancelled"}'] == "1.0"
    assert values["nextchar_queue_depth"] == "1.0"
    assert values["nextchar_redis_up"] == "1.0"
    assert values["nextchar_models_loaded"] == "1.0"
    assert values['nextchar_engine_requests_total{model="fake@1"}'] == "1.0"
    route = 'method="POST",route="/v1/jobs/{job}/cancel",status="200"'
    assert values[f"nextchar_http_requests_total{{{route}}}"] == "1.0"
    assert 'nextchar_http_requests_total{method="GET",route="unmatched",status="404"}' in values
    assert not re.search(r"job_[0-9a-f]{12}", answer.text), "ids must not become labels"


def test_metrics_count_the_errors_of_a_failing_reconciler_and_tell_its_last_beat(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RECONCILE_S", 0.01)
    monkeypatch.setattr(Reconciler, "run", _out_of_descriptors)
    with serving(settings) as service:

        def values() -> dict[str, str]:
            text = service.http.get("/metrics").text
            return dict(re.findall(r"^(nextchar_background\w+\{.*\}) (\S+)$", text, re.MULTILINE))

        errors = 'nextchar_background_errors_total{error="OSError",name="reconciler"}'
        until(lambda: float(values().get(errors, 0)) > 1)
        assert float(values()['nextchar_background_last_beat_seconds{name="reconciler"}']) < 5


def _out_of_descriptors(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")
