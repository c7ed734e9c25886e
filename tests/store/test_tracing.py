import pytest

from store import tracing
from store.settings import StoreSettings


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    advice: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        StoreSettings.load()
    printed = capsys.readouterr().err
    assert printed.startswith(f"nextchar: {name}={value!r}: ") and advice in printed
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")  # then nothing is asked for
    StoreSettings.load()


def test_a_span_outside_of_tracing_is_nothing() -> None:
    with tracing.span("nothing", attributes={"a": 1}) as span:
        assert span is None and tracing.traceparent() is None and tracing.trace_id() == ""
