"""Metrics for Prometheus. Each application has its own registry.

Parts that count something in a hot path make their metric themselves, without a registry; a room registers
it, and collectors of what is read when it is scraped. docs/reference/metrics.md lists all of them, which a
test checks.
"""

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.http.middleware import HttpMiddleware
from nextchar.models.errors import DomainError
from nextchar.models.kernels import variants
from nextchar.store.background import BackgroundLoop
from nextchar.store.blobs import Blobs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_LAG_INTERVAL_S = 0.01

T = TypeVar("T")

STORAGE_READ_S = 4.0
"""Reads of a storage that hangs are given up after this long: a scraper waits ten seconds for all metrics."""


class Metrics:
    """The request metrics of one API process, and what its parts have registered."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "nextchar_http_requests_total",
            "Finished requests.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.latency_s = Histogram(
            "nextchar_http_request_seconds",
            "Seconds from a request to the end of its response.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "nextchar_http_requests_in_flight", "Requests in progress.", registry=self._registry
        )
        self.loop_lag_s = Histogram(
            "nextchar_event_loop_lag_seconds",
            "Delay of a timer of the event loop, during which no other request was served.",
            buckets=_LAG_BUCKETS_S,
            registry=self._registry,
        )
        Gauge(
            "nextchar_process_start_time_seconds",
            "When this process started, in Unix seconds; distinguishes several processes on one port.",
            registry=self._registry,
        ).set(time.time())
        ProcessCollector(registry=self._registry)
        self.of_calls = lru_cache(maxsize=4096)(self._find)
        """Returns the count and the durations of calls; to look them up by labels takes long."""

    def _find(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self.requests.labels(method, route, str(status)), self.latency_s.labels(method, route)

    def register(self, collector: Collector) -> None:
        """Report what a part counts, or reads when it is scraped."""
        self._registry.register(collector)

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.loop_lag_s.observe(max(0.0, loop.time() - due))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format. Reads storage and Redis."""
        return generate_latest(self._registry)


Values = Mapping[Any, float]
"""The values of a metric by those of its labels, a tuple of texts."""


def gauge(name: str, about: str, values: Values | float, *labels: str) -> Metric:
    """Return a gauge with its values, or with its only one."""
    return _family(GaugeMetricFamily, name, about, values, labels)


def counter(name: str, about: str, values: Values | float, *labels: str) -> Metric:
    """Return a counter with its values, or with its only one."""
    return _family(CounterMetricFamily, name, about, values, labels)


def _family(kind: Any, name: str, about: str, values: Values | float, labels: Sequence[str]) -> Metric:
    family: Any = kind(name, about, labels=labels)
    for of, value in (values if isinstance(values, Mapping) else {(): values}).items():
        family.add_metric(of, value)
    return cast(Metric, family)


@dataclass(frozen=True, eq=False)
class Collected(Collector):
    """What `read` returns when it is scraped; omitted while what it reads does not respond."""

    read: Callable[[], Iterable[Metric]]

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        with contextlib.suppress(RedisError, DomainError, OSError):
            yield from list(self.read())


def service_metrics(loops: Sequence[BackgroundLoop], blobs: Blobs, data_dir: Path) -> Iterator[Metric]:
    """Yield gauges of the background loops, the disks and the kernels of one process."""
    statuses = [loop.status() for loop in loops]
    yield gauge(
        "nextchar_background_last_beat_seconds",
        "Seconds since a background loop's last iteration ended; grows while it hangs.",
        {(one.name,): one.seconds_since_beat for one in statuses},
        "name",
    )
    yield gauge(
        "nextchar_background_last_success_seconds",
        "Seconds since a background loop's last iteration without an error ended.",
        {(one.name,): one.seconds_since_success for one in statuses},
        "name",
    )
    yield counter(
        "nextchar_background_errors",
        "Failed iterations of a background loop, by type of error.",
        {(one.name, error): count for one in statuses for error, count in one.errors.items()},
        "name",
        "error",
    )
    free_bytes: dict[tuple[str, ...], float] = {}
    with contextlib.suppress(OSError):
        free_bytes["data",] = shutil.disk_usage(data_dir).free
    with contextlib.suppress(DomainError, OSError):
        if (of_storage := blobs.free_bytes()) is not None:  # not an object store
            free_bytes["storage",] = of_storage
    yield gauge(
        "nextchar_disk_free_bytes",
        "Free bytes on the disk of the `data` folder, and of the `storage` if that is a folder.",
        free_bytes,
        "of",
    )
    measurements = variants.load()
    measured = {(one.product, one.variant): one for one in measurements}
    used = variants.chosen(measurements)
    yield gauge(
        "nextchar_kernel_giga_operations_per_second",
        "Multiply-adds per second on one core when the variant in use was measured, in 10**9.",
        {
            (o.product, o.variant): o.speed
            for o in measurements
            if not o.failure and used[o.product] == o.variant
        },
        "product",
        "variant",
    )
    yield gauge(
        "nextchar_kernel_failed",
        "1 for a variant that failed its check on this machine and is not used.",
        {of: 1 for of, one in measured.items() if one.failure},
        "product",
        "variant",
    )


class RequestMetrics(HttpMiddleware):
    """Counts requests and their duration by route template, so that ids do not become labels."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics: Metrics = scope["state"]["services"][Metrics]
        started_s = time.perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "unmatched")
            requests, latency_s = metrics.of_calls(scope["method"], route, status)
            requests.inc()
            latency_s.observe(time.perf_counter() - started_s)


class BoundedRead(Generic[T]):
    """Calls `read` in a thread and waits for at most `timeout_s` seconds for the result.

    While a call has not ended, further callers wait for the same one: a storage that hangs holds one thread.
    """

    def __init__(self, read: Callable[[], T], timeout_s: float) -> None:
        self._read, self._timeout_s = read, timeout_s
        self._lock = threading.Lock()
        self._reading: Future[T] | None = None

    def __call__(self) -> T:
        """Return what `read` returns. Raises what it raises, and TimeoutError."""
        with self._lock:
            if self._reading is None or self._reading.done():
                reading = Future[T]()
                threading.Thread(target=self._run, args=(reading,), daemon=True).start()
                self._reading = reading  # after the start, which fails if there are too many threads
            reading = self._reading
        return reading.result(timeout=self._timeout_s)

    def _run(self, reading: Future[T]) -> None:
        try:
            reading.set_result(self._read())
        except BaseException as error:  # noqa: BLE001  (is raised by `result`)
            reading.set_exception(error)
