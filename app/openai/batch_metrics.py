"""Metrics of batches, from records and Redis: each process reports the same."""

import contextlib
import time
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from nextchar.app.openai.batches import Batches, BatchStatus
from nextchar.app.operations.metrics import STORAGE_READ_S, BoundedRead
from nextchar.models.errors import DomainError


class BatchCollector(Collector):
    """Batches and their requests; omitted while the storage or Redis does not respond."""

    def __init__(self, batches: Batches, clock: Callable[[], float] = time.time) -> None:
        self.batches, self.clock = batches, clock
        self._read = BoundedRead(self._read_batches, STORAGE_READ_S)

    def collect(self) -> Iterator[Metric]:
        """Yield their gauges."""
        with contextlib.suppress(RedisError, DomainError, OSError):
            yield from self._read()

    def _read_batches(self) -> list[Metric]:
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
