"""Metrics of ingestion, alerts and notifications, read from Redis: each process reports the same."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.recalibration import RollingLines
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.app.logs.notifications.outbox import Outbox


@dataclass(frozen=True, eq=False)
class IngestCollector(Collector):
    """The lines of log agents; omitted while Redis does not respond."""

    ingest: IngestStreams
    rolling: RollingLines

    def collect(self) -> Iterator[Metric]:
        """Yield what Redis counts for all processes."""
        with contextlib.suppress(RedisError, OSError):
            yield from self._read()

    def _read(self) -> Iterator[Metric]:
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


@dataclass(frozen=True, eq=False)
class AlertCollector(Collector):
    """Alerts and notifications."""

    alerts: Alerts
    outbox: Outbox

    def collect(self) -> Iterator[Metric]:
        """Yield their counters."""
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
