"""OpenTelemetry's own exporter sends log records to the service."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving, until

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
exporter_module = pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    reason="opentelemetry-exporter-otlp-proto-http is not installed",
)


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        publish(running.models)
        lines = ["ab" * (1 + i % 9) for i in range(120)]
        running.http.post("/v1/models/fake/calibrate", json={"lines": lines}).raise_for_status()
        yield running


def export(service: Service, *lines: str, resource: dict[str, str], path: str, **options: Any) -> None:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    provider = LoggerProvider(resource=Resource.create(resource))
    sender = exporter_module.OTLPLogExporter(endpoint=f"{service.http.base_url}{path}", **options)
    provider.add_log_record_processor(BatchLogRecordProcessor(sender))
    logger = provider.get_logger("tests")
    for i, line in enumerate(lines):
        logger.emit(LogRecord(timestamp=1_795_563_600_000_000_000 + i, body=line))
    provider.shutdown()


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_records_are_scored_and_flagged(service: Service, compression: str) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression

    options = {"compression": Compression(compression)}
    resource = {"nextchar.model": "fake", "host.name": "web-1"}
    export(service, "abab", "ab→", "ab", resource=resource, path="/v1/logs", **options)
    until(lambda: service.http.get("/v1/models/fake/ingest").json()["scored"] == 3)
    [flagged] = service.http.get("/v1/models/fake/ingest/events").json()["data"]
    assert (flagged["line"], flagged["source"], flagged["time"]) == ("ab→", "web-1", 1_795_563_600.0)


def test_a_refusal_is_logged_with_what_to_do(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        export(service, "ab", resource={}, path="/v1/logs")
    assert "422" in caplog.text
