"""Metrics for Prometheus. Each application has its own registry.

Parts that count something in a hot path make their metric themselves, without a registry; `Metrics` registers
it. docs/reference/metrics.md lists all of them, which a test checks.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from nextchar.app.access.keys import KeyFile
from nextchar.app.access.rate_limits import RateLimits
from nextchar.app.jobs.training_metrics import STORAGE_READ_S, TrainingCollector
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.rolling import RollingLines
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.models.engine_metrics import EngineCollector
from nextchar.app.models.engines import Engines
from nextchar.app.openai.batches import Batches, BatchStatus
from nextchar.app.operations.bounded_read import BoundedRead
from nextchar.models.errors import DomainError
from nextchar.models.kernels import variants
from nextchar.store.background import BackgroundLoop
from nextchar.store.jobs import Jobs
from nextchar.store.live import Live
from nextchar.store.models import Models
from nextchar.store.queue import TrainingQueue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_LAG_INTERVAL_S = 0.01


@dataclass(kw_only=True, eq=False)
class Metrics:
    """The request metrics of one API process, and gauges read from its parts when scraped."""

    jobs: Jobs
    live: Live
    models: Models
    queue: TrainingQueue
    engines: Engines
    rates: RateLimits
    data_dir: Path
    loops: Sequence[BackgroundLoop]
    ingest: IngestStreams
    alerts: Alerts
    outbox: Outbox
    rolling: RollingLines
    batches: Batches
    keys: KeyFile | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
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
        self._batches_read = BoundedRead(self._read_batches, STORAGE_READ_S)
        self._scan = BoundedRead(self.models.scan, STORAGE_READ_S)
        for collector in (
            self.engines.first_character_s,
            self.rates.limited,
            EngineCollector(self.engines),
            TrainingCollector(self.jobs, self.live, self.queue, self.clock),
            self,
        ):
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

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of the parts; those of a part that does not respond are omitted."""
        yield from self._loops()
        yield from self._disk()
        with contextlib.suppress(RedisError, OSError):
            yield from self._ingest()
        yield from self._alerts()
        with contextlib.suppress(RedisError, DomainError, OSError):
            yield from self._batches_read()
        yield from _kernels()
        if self.keys:
            yield GaugeMetricFamily(
                "nextchar_api_keys_file_errors",
                "Problems of the file of API keys, whose last valid version applies; 1 if it cannot be read.",
                value=len(self.keys.problems),
            )
        with contextlib.suppress(DomainError, OSError):
            family = GaugeMetricFamily(
                "nextchar_damaged_records",
                "Unreadable records in storage, which are omitted from lists.",
                labels=["kind"],
            )
            family.add_metric(["model"], len(self._scan()[1]))
            yield family

    def _loops(self) -> Iterator[Metric]:
        beat = GaugeMetricFamily(
            "nextchar_background_last_beat_seconds",
            "Seconds since a background loop's last iteration ended; grows while it hangs.",
            labels=["name"],
        )
        success = GaugeMetricFamily(
            "nextchar_background_last_success_seconds",
            "Seconds since a background loop's last iteration without an error ended.",
            labels=["name"],
        )
        errors = CounterMetricFamily(
            "nextchar_background_errors",
            "Failed iterations of a background loop, by type of error.",
            labels=["name", "error"],
        )
        for status in (loop.status() for loop in self.loops):
            beat.add_metric([status.name], status.seconds_since_beat)
            success.add_metric([status.name], status.seconds_since_success)
            for error, count in status.errors.items():
                errors.add_metric([status.name, error], count)
        yield from (beat, success, errors)

    def _disk(self) -> Iterator[Metric]:
        free = GaugeMetricFamily(
            "nextchar_disk_free_bytes",
            "Free bytes on the disk of the `data` folder, and of the `storage` if that is a folder.",
            labels=["of"],
        )
        with contextlib.suppress(OSError):
            free.add_metric(["data"], shutil.disk_usage(self.data_dir).free)
        with contextlib.suppress(DomainError, OSError):
            storage_bytes = self.jobs.blobs.free_bytes()
            if storage_bytes is not None:  # not an object store
                free.add_metric(["storage"], storage_bytes)
        yield free

    def _ingest(self) -> Iterator[Metric]:
        """Yield what Redis counts for all processes, so that each of them reports the same."""
        statuses = {model: self.ingest.status(model) for model in self.ingest.models()}
        lines = CounterMetricFamily(
            "nextchar_ingest_lines",
            "Lines of log agents since the first, in all processes together.",
            labels=["model", "outcome"],
        )
        gauges = {
            name: GaugeMetricFamily(f"nextchar_ingest_{name}", about, labels=["model"])
            for name, about in (
                ("waiting_lines", "Lines of log agents that wait to be scored."),
                ("waiting_bytes", "Their memory in Redis."),
                ("oldest_seconds", "For how long the oldest of them has waited."),
            )
        }
        for model, status in statuses.items():
            for outcome, count in status.counts.items():
                lines.add_metric([model, outcome], count)
            values = (status.waiting, status.bytes, status.oldest_age_s or 0.0)
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric([model], value)
        flagged = GaugeMetricFamily(
            "nextchar_ingest_flagged_bytes",
            "Memory in Redis of flagged lines for live views.",
            labels=["model"],
        )
        for model, size in self.ingest.flagged.bytes().items():
            flagged.add_metric([model], size)
        rebuilds = CounterMetricFamily(
            "nextchar_ingest_recalibrations",
            "Rolling calibrations: `rebuilt`, or `held` because of drift, in all processes together.",
            labels=["model", "outcome"],
        )
        for labels, count in self.rolling.counts().items():
            rebuilds.add_metric(labels, count)
        yield from (lines, rebuilds, flagged, *gauges.values())

    def _read_batches(self) -> list[Metric]:
        """Return what records and Redis say of batches, the same from each process."""
        batches = self.batches.all()
        unfinished = [batch for batch in batches if not batch.has_ended]
        answered = sum(sum(self.batches.counts(batch)) for batch in unfinished)
        oldest_at = min((batch.created_at for batch in unfinished), default=None)
        by_status = GaugeMetricFamily("nextchar_batches", "Recorded batches.", labels=["status"])
        for status in BatchStatus:
            by_status.add_metric([status], sum(batch.status is status for batch in batches))
        return [
            by_status,
            GaugeMetricFamily(
                "nextchar_batch_waiting_requests",
                "Requests of validated batches that are not answered.",
                value=sum(batch.requests for batch in unfinished) - answered,
            ),
            GaugeMetricFamily(
                "nextchar_batch_oldest_seconds",
                "Seconds since the oldest batch that has not ended was created; 0 if there is none.",
                value=0.0 if oldest_at is None else max(0.0, self.clock() - oldest_at),
            ),
        ]

    def _alerts(self) -> Iterator[Metric]:
        """Counters that all API processes share, read from Redis."""
        lines = CounterMetricFamily(
            "nextchar_alert_lines", "Flagged lines recorded in alerts.", labels=["model", "severity"]
        )
        opened = CounterMetricFamily(
            "nextchar_alerts_opened", "Alerts, by their first line's severity.", labels=["model", "severity"]
        )
        evicted = CounterMetricFamily(
            "nextchar_alerts_evicted",
            "Alerts that were evicted because there were too many.",
            labels=["model"],
        )
        sent = CounterMetricFamily(
            "nextchar_notifications", "Requests to notification targets.", labels=["target", "outcome"]
        )
        failing = GaugeMetricFamily(
            "nextchar_notifications_failing",
            "1 if the last request to the notification target failed.",
            labels=["target"],
        )
        with contextlib.suppress(RedisError, OSError):
            totals = self.alerts.totals()
            outcomes = self.outbox.outcomes()
            for model, count in self.alerts.evictions().items():
                evicted.add_metric([model], count)
            for target in sorted({target for target, _ in outcomes}):
                failing.add_metric([target], self.outbox.health(target).is_failing)
            yield from (failing, evicted)
            for family, counts in zip((lines, opened, sent), (*totals, outcomes), strict=True):
                for labels, count in counts.items():
                    family.add_metric(labels, count)
                yield family


def _kernels() -> Iterator[Metric]:
    measurements = variants.load()
    used = variants.chosen(measurements)
    speed = GaugeMetricFamily(
        "nextchar_kernel_giga_operations_per_second",
        "Multiply-adds per second on one core when the variant in use was measured, in 10**9.",
        labels=["product", "variant"],
    )
    failed = GaugeMetricFamily(
        "nextchar_kernel_failed",
        "1 for a variant that failed its check on this machine and is not used.",
        labels=["product", "variant"],
    )
    for one in measurements:
        if one.failure:
            failed.add_metric([one.product, one.variant], 1)
        elif used[one.product] == one.variant:
            speed.add_metric([one.product, one.variant], one.speed)
    yield from (speed, failed)
