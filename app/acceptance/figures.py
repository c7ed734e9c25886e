"""Reads what `nextchar.app.acceptance.counting` has counted, and adds it up."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar, cast

from prometheus_client.core import Metric
from redis import Redis

from nextchar.app.acceptance.counting import DAY_S, LATENCY_MS, PREFIX, TOTALS
from nextchar.app.models.names import ShownCounts
from nextchar.app.operations.metrics import counter

K = TypeVar("K")

_LATENCY = "latency "


@dataclass(frozen=True)
class Group:
    """The suggestions of one version that one program first showed on one day."""

    day: str  # as 2026-11-30, in UTC
    version: int
    client: str  # empty: not known


@dataclass(frozen=True)
class Acceptance:
    """The counts of all models on one Redis, whose client decodes responses. Raises as it does."""

    redis: Redis
    retention_days: float
    clock: Callable[[], float] = field(default=time.time)

    def read(self, name: str, *, days: int | None = None) -> dict[Group, Counter[str]]:
        """Return the counts of a model's name on the last days, by default on all that are stored."""
        today = int(self.clock() // DAY_S)
        count = min(days or int(self.retention_days) + 1, int(self.retention_days) + 1)
        numbers = range(today - count + 1, today + 1)
        with self.redis.pipeline(transaction=False) as pipe:
            for day in numbers:
                pipe.hgetall(_day_key(name, day))
            found = pipe.execute()
        groups: dict[Group, Counter[str]] = {}
        for day, counts in zip(numbers, found, strict=True):
            for key, count in counts.items():
                version, *rest = key.split("\t")
                if len(rest) == 2:  # else it is about the clients themselves
                    client, counter = rest
                    groups.setdefault(Group(_date(day), int(version), client), Counter())[counter] += int(
                        count
                    )
        return groups

    def compare(self, name: str, version: int, other: int) -> tuple[ShownCounts, ShownCounts]:
        """Return the counts of two versions, on the days on which suggestions of both were shown."""
        by_day = summed(self.read(name), lambda group: (group.day, group.version))
        shown = [
            {day for day, number in by_day if number == one and by_day[day, one]["shown"]}
            for one in (version, other)
        ]
        days = shown[0] & shown[1]
        sums = [sum((by_day[day, one] for day in days), Counter()) for one in (version, other)]
        return ShownCounts(sums[0]["shown"], sums[0]["accepted"]), ShownCounts(
            sums[1]["shown"], sums[1]["accepted"]
        )

    def totals(self) -> Mapping[tuple[str, str], int]:
        """Return the counts since the first suggestion, by `name@version` and counter."""
        found = cast(dict[str, str], self.redis.hgetall(TOTALS))
        return {cast(tuple[str, str], tuple(key.split("\t"))): int(count) for key, count in found.items()}

    def forget(self, name: str) -> None:
        """Delete all counts of a model's name."""
        keys = list(self.redis.scan_iter(_day_key(name, "*"), count=10_000))
        fields = [key for key in cast(list[str], self.redis.hkeys(TOTALS)) if key.startswith(f"{name}@")]
        if keys:
            self.redis.delete(*keys)
        if fields:
            self.redis.hdel(TOTALS, *fields)


def summed(groups: Mapping[Group, Counter[str]], by: Callable[[Group], K]) -> dict[K, Counter[str]]:
    """Return the sums of the groups for which `by` is the same."""
    sums: dict[K, Counter[str]] = {}
    for group, counts in groups.items():
        sums.setdefault(by(group), Counter()).update(counts)
    return sums


def ratio(part: int, whole: int) -> float | None:
    """Return a fraction; None of nothing."""
    return part / whole if whole else None


def latency_ms(counts: Counter[str], fraction: float) -> float | None:
    """Return a quantile of the latency, interpolated in its bucket; None if none was measured.

    What is above all buckets counts as their highest bound.

    >>> latency_ms(Counter({"latency 3": 2}), 0.5)  # between 3 and 5 ms
    4.0
    """
    buckets = [counts[f"{_LATENCY}{at}"] for at in range(len(LATENCY_MS) + 1)]
    rank = fraction * sum(buckets)
    bounds = (0, *LATENCY_MS, LATENCY_MS[-1])
    for at, count in enumerate(buckets):
        if count and rank <= count:
            return bounds[at] + (bounds[at + 1] - bounds[at]) * rank / count
        rank -= count
    return None


def acceptance_metrics(acceptance: Acceptance) -> Iterator[Metric]:
    """Yield what Redis counts of suggestions for all processes, of it what never decreases."""
    totals = acceptance.totals()
    yield counter(
        "nextchar_suggestions",
        "Suggestions that were shown, accepted, and kept for a minute, in all processes together.",
        {of: count for of, count in totals.items() if of[1] in ("shown", "accepted", "kept")},
        "model",
        "outcome",
    )
    saved = {(model,): count for (model, name), count in totals.items() if name == "characters_saved"}
    about = "Characters inserted by accepted suggestions."
    yield counter("nextchar_suggestion_saved_characters", about, saved, "model")


def _day_key(name: str, day: int | str) -> str:
    return f"{PREFIX}day:{name}:{day}"


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
