"""Traces of the whole service, sent to a stand-in for an OTLP collector; and the ids in its logs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.waiting import eventually
from tests.warm_stack import WarmStack

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
pytestmark = pytest.mark.long  # a stack and a job; tests/store/test_tracing.py has what spans say

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a text that nobody else may read"


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]


@dataclass
class Traced:
    http: httpx.Client
    collector: Receiver
    logs: Path

    def spans(self) -> list[Span]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for request in list(self.collector.requests):
            assert request.path == "/v1/traces"
            assert request.headers["content-type"] == "application/x-protobuf"
            for part in ExportTraceServiceRequest.FromString(request.body).resource_spans:
                service = _values(part.resource.attributes)["service.name"]
                for span in (span for scope in part.scope_spans for span in scope.spans):
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    times = (span.start_time_unix_nano, span.end_time_unix_nano)
                    found.append(Span(service, span.name, *ids, *times, _values(span.attributes)))
        return found

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans() if span.name == name]

    def records(self, log: str) -> list[dict[str, str]]:
        lines = (self.logs / f"{log}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    with receiving() as collector:
        collector.status = 200
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "NEXTCHAR_LOG_FORMAT": "json",
        }
        with (
            WarmStack(LauncherSettings(data_dir=folder, port=0), environment=environment) as stack,
            httpx.Client(base_url=stack.url, timeout=60) as http,
        ):
            yield Traced(http, collector, folder / "logs")


@pytest.fixture(scope="module")
def job(traced: Traced) -> dict[str, Any]:
    """A job that a caller with a trace and a request id has created, and that has ended."""
    text = f"{SECRET}, and the dog sleeps on. " * 200
    corpus = traced.http.post("/v1/corpora", content=text.encode()).json()["id"]
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": "from-the-caller"}
    body = {"corpus": corpus, "name": "traced", "preset": "tiny", "budget": {"steps": 20}}
    answer = traced.http.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["x-request-id"] == "from-the-caller"
    job = answer.json()

    def has_ended() -> bool:
        nonlocal job
        job = traced.http.get(f"/v1/jobs/{job['id']}").json()
        return job["status"] not in ("queued", "running")

    eventually(has_ended, within_s=200, what="the job has ended")
    assert job["status"] == "succeeded", job
    return job


def test_a_trace_leads_from_the_request_through_the_queue_to_the_workers_steps(
    traced: Traced, job: dict[str, Any]
) -> None:
    eventually(lambda: traced.named("run job"), what="the worker's spans have arrived")
    (request,) = (span for span in traced.named("POST /v1/jobs") if span.trace == TRACE)
    assert (request.service, request.parent) == ("nextchar-api", CALLER)
    assert request.attributes["http.response.status_code"] == 202
    of_trace = {span.name: span for span in traced.spans() if span.trace == TRACE}
    (sent, waited, run) = (of_trace[name] for name in ("send job", "wait in queue", "run job"))
    assert {sent.parent, waited.parent, run.parent} == {request.id}
    assert (sent.service, waited.service, run.service) == ("nextchar-api", *2 * ("nextchar-worker",))
    assert waited.began_ns < waited.ended_ns <= run.began_ns
    assert run.attributes["nextchar.job.id"] == job["id"]
    assert (run.attributes["nextchar.job.attempt"], run.attributes["nextchar.job.status"]) == (1, "succeeded")
    for name in ("prepare text", "train", "evaluate model", "publish"):
        assert of_trace[name].parent == run.id, name
    assert of_trace["prepare text"].ended_ns <= of_trace["train"].began_ns
    evaluations = [span for span in traced.named("evaluate") if span.trace == TRACE]
    assert evaluations and {span.parent for span in evaluations} == {of_trace["train"].id}


def test_logs_of_api_and_worker_have_the_ids_of_request_job_and_trace(
    traced: Traced, job: dict[str, Any]
) -> None:
    ids = {"request_id": "from-the-caller", "job_id": job["id"], "trace_id": TRACE}
    (queued,) = (one for one in traced.records("api") if one["message"] == f"{job['id']} is queued")
    assert {name: queued.get(name) for name in ids} == ids
    of_job = [one for one in traced.records("worker") if one.get("job_id") == job["id"]]
    assert any({name: one.get(name) for name in ids} == ids for one in of_job), of_job


def test_health_checks_make_no_spans_and_texts_are_in_none(traced: Traced, job: dict[str, Any]) -> None:
    traced.http.get("/healthz")
    traced.http.get("/metrics")
    headers = {"X-Request-Id": "bad id\u00e9".encode("latin-1")}
    body = {"prompt": SECRET, "max_characters": 5}
    answer = traced.http.post("/v1/models/traced/complete", json=body, headers=headers)
    assert answer.status_code == 200 and answer.headers["x-request-id"] != "bad id"
    name = "POST /v1/models/{model}/complete"
    eventually(lambda: traced.named(name), what="the completion's span has arrived")
    routes = {span.attributes.get("url.path") for span in traced.spans()}
    assert not routes & {"/healthz", "/readyz", "/metrics"}
    assert not any(SECRET.encode() in request.body for request in traced.collector.requests)


def test_a_collector_that_does_not_answer_delays_no_request_and_no_job(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "NEXTCHAR_LOG_FORMAT": "json"}
    with (
        Stack(LauncherSettings(data_dir=tmp_path, port=0), environment=environment) as stack,
        httpx.Client(base_url=stack.url, timeout=60) as http,
    ):
        corpus = http.post("/v1/corpora", content=b"the quick brown fox. " * 200).json()["id"]
        body = {"corpus": corpus, "name": "fox", "preset": "tiny", "budget": {"steps": 5}}
        path = f"/v1/jobs/{http.post('/v1/jobs', json=body).json()['id']}"
        eventually(
            lambda: http.get(path).json()["status"] == "succeeded", within_s=200, what="the job has ended"
        )
