"""`nextchar acceptance`: how many suggestions of a model were shown, accepted and kept."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from typer import Option

from nextchar.cli.formatting import format_integer
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command

_LABELS: dict[str, Callable[[Any], str]] = {
    "version": lambda row: row["model"],
    "client": lambda row: row["client"] or "–",
    "day": lambda row: f"{row['day']} {row['model']}",
}
_LISTS = {"version": "versions", "client": "clients", "day": "by_day"}


@command
def acceptance(
    session: Session,
    model: ModelArgument,
    days: Annotated[int, Option("--days", "-d", help="Days to add up, with today, in UTC.")] = 30,
    by: Annotated[
        Literal["version", "client", "day"], Option(help="What the rows are; days are per version.")
    ] = "version",
) -> None:
    """Show how many suggestions of a model were shown, accepted and kept.

    Example: nextchar acceptance cities --days 7 --by day
    """
    found: Any = session.client.acceptance(model, days=days)
    if session.as_json:
        session.print_json(found)
        return
    columns: dict[str, Callable[[Any], str]] = {
        by: lambda row: "total" if row is found["total"] else _LABELS[by](row),
        "shown": lambda row: format_integer(row["shown"]),
        "accepted": lambda row: format_integer(row["accepted"]),
        "rate": lambda row: _percent(row["acceptance_rate"]),
        "kept": lambda row: _percent(row["kept_rate"]),
        "saved": lambda row: format_integer(row["characters_saved"]),
        "p50 ms": lambda row: _quantile(row, "p50"),
        "p99 ms": lambda row: _quantile(row, "p99"),
    }
    rows = found[_LISTS[by]]
    empty = f"no suggestion of {model} was shown; clients report them to /v1/events"
    session.print_list([*rows, found["total"]] if rows else [], columns, if_empty=empty)


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _quantile(row: Any, name: str) -> str:
    return f"{row['latency_ms'][name]:.1f}" if row["latency_ms"] else "–"
