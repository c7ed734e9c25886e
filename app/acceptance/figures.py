"""Reads what `nextchar.app.acceptance.counting` has counted, adds it up, and makes responses of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar, cast

from prometheus_client.core import Metric
from pydantic import BaseModel, Field
from redis import Redis

from nextchar.app.acceptance.counting import COUNTERS, DAY_S, LATENCY_MS, PREFIX, TOTALS
from nextchar.app.http.schemas import Page, Shape, with_examples
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
    clock: Callable[[], float] = time.time

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
        by_day = _summed(self.read(name), lambda group: (group.day, group.version))
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


def _summed(groups: Mapping[Group, Counter[str]], by: Callable[[Group], K]) -> dict[K, Counter[str]]:
    """Return the sums of the groups for which `by` is the same."""
    sums: dict[K, Counter[str]] = {}
    for group, counts in groups.items():
        sums.setdefault(by(group), Counter()).update(counts)
    return sums


def _ratio(part: int, whole: int) -> float | None:
    """Return a fraction; None of nothing."""
    return part / whole if whole else None


def _latency_ms(counts: Counter[str], fraction: float) -> float | None:
    """Return a quantile of the latency, interpolated in its bucket; None if none was measured.

    What is above all buckets counts as their highest bound.

    >>> _latency_ms(Counter({"latency 3": 2}), 0.5)  # between 3 and 5 ms
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


EXAMPLE_FIGURES: dict[str, Any] = {
    "shown": 1200, "accepted": 300, "typed": 120, "dismissed": 80, "kept": 270, "acceptance_rate": 0.25,
    "kept_rate": 0.9, "characters_saved": 2100, "characters_typed": 900,
    "latency_ms": {"p50": 4.2, "p90": 7.9, "p99": 18.5},
}  # fmt: skip


class LatencyBody(BaseModel):
    """Quantiles of the latency that clients measured, in milliseconds, from a fixed histogram."""

    p50: float
    p90: float
    p99: float


class FiguresBody(Shape):
    """What became of some suggestions; each counts on the day on which it was first shown."""

    shown: int = Field(description="Suggestions that were shown, each once.")
    accepted: int = Field(description="Of these, those that were accepted as a whole or in part.")
    typed: int = Field(description="Those instead of which something else was typed.")
    dismissed: int
    """Those that were dismissed, and neither accepted nor replaced by typing."""
    kept: int = Field(description="Those that were accepted and still there a minute later.")
    acceptance_rate: float | None = Field(description="`accepted / shown`; null if none was shown.")
    kept_rate: float | None = Field(description="`kept / accepted`; null if none was accepted.")
    characters_saved: int
    """Characters inserted by accepted suggestions, instead of being typed."""
    characters_typed: int = Field(description="Characters typed before suggestions that were accepted.")
    latency_ms: LatencyBody | None = Field(description="Null if no client has measured it.")

    @classmethod
    def of(cls, counts: Counter[str], **labels: Any) -> Self:
        """Return the figures of some counts, of what the labels say."""
        quantiles = {f"p{percent}": _latency_ms(counts, percent / 100) for percent in (50, 90, 99)}
        return cls(
            **{name: counts[name] for name in COUNTERS},
            acceptance_rate=_ratio(counts["accepted"], counts["shown"]),
            kept_rate=_ratio(counts["kept"], counts["accepted"]),
            latency_ms=None if None in quantiles.values() else quantiles,
            **labels,
        )


class VersionFigures(FiguresBody):
    """The suggestions of one version."""

    model: str = Field(description="`name@version`.")


class ClientFigures(FiguresBody):
    """The suggestions that one program showed."""

    client: str | None = Field(description="Null: its events did not name it.")


class DayFigures(FiguresBody):
    """The suggestions of one version that were first shown on one day."""

    day: str = Field(description="As 2026-11-30, in UTC.")
    model: str = Field(description="`name@version`.")


class KeptTextBody(Shape):
    """An accepted or typed text that is kept to learn from."""

    id: str
    text: str
    type: Literal["accepted", "typed"]
    source: str
    """The first 16 hexadecimal digits of the SHA-256 of the `client_id`; empty without one."""
    model: str = Field(description="`name@version` that suggested something then.")
    kept_at: float = Field(description="Unix seconds.")


class LearningBody(Shape):
    """How far learning from use is."""

    alias: str = Field(description="The alias that learns, as `name@alias`.")
    job: str | None
    """The job whose version is trained, or is compared with the current one."""
    shared_at: float | None
    """When that version got a share of the clients, in Unix seconds; null: not yet."""
    outcome: str = Field(description="What happened last.")


class KeptTextPage(Page[KeptTextBody]):
    """A page of kept texts, the oldest first, and how far learning from them is."""

    model_config = with_examples({
        "object": "list",
        "data": [
            {
                "id": "1795563730000-0", "text": "London", "type": "accepted", "source": "8f14e45fceea167a",
                "model": "cities@3", "kept_at": 1795563730.0,
            },
        ],
        "has_more": False,
        "learning": {
            "alias": "cities@live", "job": None, "shared_at": None,
            "outcome": "cities@live was moved to cities@3",
        },
    })  # fmt: skip

    learning: LearningBody | None = Field(description="Null: the model does not learn from use.")


class DeletedTexts(BaseModel):
    """What was deleted."""

    model_config = with_examples({"object": "kept_texts", "deleted": 12})

    object: Literal["kept_texts"] = "kept_texts"
    deleted: int


class AcceptanceBody(BaseModel):
    """How many suggestions of a model were accepted: in all, and by version, client and day."""

    model_config = with_examples({
        "object": "acceptance", "model": "cities", "days": 30, "total": EXAMPLE_FIGURES,
        "versions": [EXAMPLE_FIGURES | {"model": "cities@3"}],
        "clients": [EXAMPLE_FIGURES | {"client": "nextchar-js/1.0"}],
        "by_day": [EXAMPLE_FIGURES | {"day": "2026-11-30", "model": "cities@3"}],
    })  # fmt: skip

    object: Literal["acceptance"] = "acceptance"
    model: str = Field(description="The model's name; `name@version` if only one version was asked for.")
    days: int = Field(description="How many days are added up, with today, in UTC.")
    total: FiguresBody
    versions: list[VersionFigures] = Field(description="The oldest version first.")
    clients: list[ClientFigures] = Field(description="By name.")
    by_day: list[DayFigures] = Field(description="One for each day and version of which any was shown.")

    @classmethod
    def of(cls, name: str, groups: Mapping[Group, Counter[str]], *, version: int | None, days: int) -> Self:
        """Return the sums of the groups of a model's name, or of one version."""
        chosen = {group: counts for group, counts in groups.items() if version in (None, group.version)}

        def reference(number: int) -> str:
            return f"{name}@{number}"

        versions = _summed(chosen, lambda group: group.version)
        clients = _summed(chosen, lambda group: group.client)
        by_day = _summed(chosen, lambda group: (group.day, group.version))
        return cls(
            model=name if version is None else reference(version),
            days=days,
            total=FiguresBody.of(sum(chosen.values(), Counter())),
            versions=[VersionFigures.of(versions[v], model=reference(v)) for v in sorted(versions)],
            clients=[ClientFigures.of(clients[c], client=c or None) for c in sorted(clients)],
            by_day=[DayFigures.of(by_day[d, v], day=d, model=reference(v)) for d, v in sorted(by_day)],
        )
