"""OpenTelemetry traces of requests and jobs, sent by OTLP (HTTP/protobuf).

OTEL_EXPORTER_OTLP_ENDPOINT switches them on; OpenTelemetry's other variables apply too. While they are off
nothing of OpenTelemetry's SDK is imported, and the functions here do nothing.

A job's record has the trace context of the request that created it (`traceparent`, W3C Trace Context), so the
spans of every attempt at it belong to that request's trace. The API's request spans are FastAPI's own.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nextchar.models import installed_version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
_FLUSH_S = 5.0  # at most, at the end of a process
_NAME = "nextchar"

_provider: "TracerProvider | None" = None


def is_requested() -> bool:
    """Return whether the environment switches traces on."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    has_exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "none"
    return has_exporter and not is_disabled and any(os.environ.get(name) for name in _ENDPOINTS)


def check_environment() -> None:
    """Raise ValueError, naming the variable, if a setting in the environment is not supported."""
    if not is_requested():
        return
    for name in _ENDPOINTS:
        url = os.environ.get(name)
        if url and not re.match(r"https?://[^/\s]+", url):
            raise ValueError(f"{name}={url!r}: not an HTTP URL; write http://collector:4318")
    for name in _PROTOCOLS:
        protocol = os.environ.get(name, "http/protobuf")
        if protocol != "http/protobuf":
            raise ValueError(
                f"{name}={protocol!r}: traces are sent by http/protobuf only; collectors listen for that on"
                " port 4318"
            )


def start(service: str) -> None:
    """Send the spans of this process from now on, if the environment switches traces on.

    Call it once per process, after a fork: a thread sends the spans. `service` names the process unless
    OTEL_SERVICE_NAME does.
    """
    global _provider  # noqa: PLW0603 -- OpenTelemetry's provider is one per process too
    if not is_requested() or _provider:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": installed_version()})  # and what the environment names
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _provider = provider


def stop() -> None:
    """Send the remaining spans, for a few seconds at most, and no further ones."""
    global _provider
    provider, _provider = _provider, None
    if provider:
        sending = threading.Thread(target=provider.shutdown, name="send spans", daemon=True)
        sending.start()
        sending.join(_FLUSH_S)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: str = "INTERNAL",
    started_at: float | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Iterator["Span | None"]:
    """Return a context manager that is one span, and the parent of those inside.

    An exception marks it as failed with the exception's class; its message may quote a text and is left out.

    It began at `started_at`, in Unix seconds, by default now, and is below the span with the traceparent
    `parent`, by default the one that the caller is in. `kind` is OpenTelemetry's SpanKind.
    """
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import SpanKind

    options: dict[str, Any] = {
        "kind": SpanKind[kind],
        "record_exception": False,
        "set_status_on_exception": False,
    }
    if parent:
        from opentelemetry.propagate import extract

        options["context"] = extract({"traceparent": parent})
    if started_at is not None:
        options["start_time"] = int(started_at * 1e9)
    with _provider.get_tracer(_NAME).start_as_current_span(name, attributes=attributes, **options) as current:
        try:
            yield current
        except Exception as error:
            mark_failed(current, type(error).__name__)
            raise


def mark_failed(failed: "Span", error_type: str) -> None:
    """Set the status of a span to an error of this type."""
    from opentelemetry.trace import StatusCode

    failed.set_attribute("error.type", error_type)
    failed.set_status(StatusCode.ERROR)


def traceparent() -> str | None:
    """Return the W3C trace context of the span that the caller is in, if any."""
    if _provider is None:
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


def trace_id() -> str:
    """Return the trace id of the span that the caller is in, in hexadecimal digits; "" if there is none."""
    return trace_id_of(traceparent()) if _provider else ""


def trace_id_of(parent: str | None) -> str:
    """Return the trace id in a `traceparent`; "" without one.

    >>> trace_id_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '0af7651916cd43dd8448eb211c80319c'
    """
    return parent.split("-")[1] if parent else ""
