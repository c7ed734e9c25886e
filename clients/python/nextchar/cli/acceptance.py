"""`nextchar acceptance`: how many suggestions were shown, accepted and kept; `counts` of their lines."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from nextchar.cli.formatting import format_integer
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command, fail

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


@command
def counts(
    session: Session,
    model: ModelArgument,
    file: Annotated[
        Path | None,
        Argument(metavar="FILE", help="Lines with a count behind a tab, and a Unix time behind another."),
    ] = None,
    source: Annotated[
        str | None, Option(help="What has counted them; it replaces its own counts. Default: default.")
    ] = None,
    half_life_days: Annotated[
        float, Option(help="Days after which half of a count is left; 0: all of it stays.")
    ] = 30.0,
    add_lines: Annotated[
        bool,
        Option(
            "--add-lines/--known-lines", help="Whether lines that the corpus lacks are suggested as well."
        ),
    ] = True,
    delete: Annotated[bool, Option("--delete", help="Delete the counts of the source, or all.")] = False,
) -> None:
    """Show, add or delete counts of the lines that a model suggests, without training.

    Example: nextchar counts cities orders.tsv --source orders --half-life-days 14
    """
    if delete:
        number = session.client.delete_line_counts(model, source=source)
        session.print_result({"deleted": number}, f"deleted {format_integer(number)} counts")
        return
    if file:
        lines = [
            _counted(line, number) for number, line in enumerate(file.read_text().splitlines(), 1) if line
        ]
        added = session.client.put_line_counts(
            model,
            lines,
            source=source or "default",
            half_life_days=half_life_days or None,
            add_lines=add_lines,
        )
        session.print_result(added, f"{added['source']}: {format_integer(added['lines'])} counts")
        return
    found: Any = session.client.line_counts(model, source=source)
    if session.as_json:
        session.print_json(found)
        return
    columns: dict[str, Callable[[Any], str]] = {
        "line": lambda row: row["text"],
        "count": lambda row: f"{row['count']:,.1f}",
    }
    session.print_list(found["lines"], columns, if_empty=f"no counts were added to the lines of {model}")


def _counted(line: str, number: int) -> dict[str, Any]:
    text, *rest = line.split("\t")
    try:
        return {"text": text} | dict(zip(("count", "at"), map(float, rest), strict=False))
    except ValueError:
        raise fail(f"line {number} has {rest[0]!r} behind its tab, which is no number") from None


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _quantile(row: Any, name: str) -> str:
    return f"{row['latency_ms'][name]:.1f}" if row["latency_ms"] else "–"
