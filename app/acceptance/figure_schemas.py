"""What the events of suggestions add up to, as responses."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from nextchar.app.acceptance.counting import COUNTERS
from nextchar.app.acceptance.figures import Group, latency_ms, ratio, summed
from nextchar.app.http.schemas import Page, Shape, with_examples

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
        quantiles = {f"p{percent}": latency_ms(counts, percent / 100) for percent in (50, 90, 99)}
        return cls(
            **{name: counts[name] for name in COUNTERS},
            acceptance_rate=ratio(counts["accepted"], counts["shown"]),
            kept_rate=ratio(counts["kept"], counts["accepted"]),
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

        versions = summed(chosen, lambda group: group.version)
        clients = summed(chosen, lambda group: group.client)
        by_day = summed(chosen, lambda group: (group.day, group.version))
        return cls(
            model=name if version is None else reference(version),
            days=days,
            total=FiguresBody.of(sum(chosen.values(), Counter())),
            versions=[VersionFigures.of(versions[v], model=reference(v)) for v in sorted(versions)],
            clients=[ClientFigures.of(clients[c], client=c or None) for c in sorted(clients)],
            by_day=[DayFigures.of(by_day[d, v], day=d, model=reference(v)) for d, v in sorted(by_day)],
        )
