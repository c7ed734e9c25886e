import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nextchar.store import tracing
from nextchar.store.settings import StoreSettings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*tracing._ENDPOINTS, *tracing._PROTOCOLS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "requested"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),  # as the Compose file sets it
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_own_variables_switch_traces(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], requested: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.is_requested() is requested


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "write http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector:4317", "not an HTTP URL"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "port 4318"),
    ],
)
def test_a_wrong_variable_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, advice: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        StoreSettings.load()
    printed = capsys.readouterr().err
    assert printed.startswith(f"nextchar: {name}={value!r}: ") and advice in printed
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")  # then nothing is asked for
    StoreSettings.load()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that have ended, while traces are on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_provider", provider)
    return exporter


def test_a_span_has_its_name_kind_attributes_start_and_parent(spans: InMemorySpanExporter) -> None:
    above = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with tracing.span("outer", parent=above, kind="CONSUMER", started_at=1.5, attributes={"a": 1}):
        inside = tracing.traceparent()
        assert inside and tracing.trace_id() == "0af7651916cd43dd8448eb211c80319c" == tracing.trace_id_of(
            inside
        )
        with tracing.span("inner"):
            assert tracing.traceparent() not in (inside, None)
    inner, outer = spans.get_finished_spans()
    assert (outer.name, outer.kind.name, dict(outer.attributes or {})) == ("outer", "CONSUMER", {"a": 1})
    assert outer.start_time == 1_500_000_000
    assert outer.parent and f"{outer.parent.span_id:016x}" == "b7ad6b7169203331"
    assert inner.parent and inner.parent.span_id == outer.context.span_id
    assert inner.kind.name == "INTERNAL" and inner.start_time and inner.start_time > 10**18, "it begins now"
    assert tracing.traceparent() is None and tracing.trace_id() == ""


def test_a_failed_span_has_the_class_of_its_error_and_never_its_message(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a user's text"), tracing.span("fails"):
        raise ValueError("a user's text")
    [span] = spans.get_finished_spans()
    assert span.status.status_code.name == "ERROR" and not span.status.description
    assert dict(span.attributes or {}) == {"error.type": "ValueError"} and span.events == ()


@pytest.mark.parametrize("url", ["http://collector:4318", "https://c/v1/traces", ""])
def test_variables_that_are_right_are_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    tracing.check_environment()
    assert tracing.is_requested()


def test_a_process_does_not_wait_for_a_collector_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end, sending = threading.Event(), list[threading.Thread]()

    class Hanging:
        def shutdown(self) -> None:
            sending.append(threading.current_thread())
            may_end.wait(120)

    monkeypatch.setattr(tracing, "_provider", Hanging())
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.01)
    tracing.stop()
    try:
        assert tracing._provider is None and [thread.daemon for thread in sending] == [True]
    finally:
        may_end.set()
        sending[0].join(120)
