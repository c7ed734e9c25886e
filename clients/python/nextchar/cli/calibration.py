"""`nextchar calibrate`: make, list and delete a model's calibrations."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Unpack

import typer
from typer import Argument, Option

from nextchar.cli.flagged_lines import rarity
from nextchar.cli.formatting import format_integer, format_time
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command, read_bytes
from nextchar.errors import NextcharError
from nextchar.options import CalibrationOptions
from nextchar.types import Calibration


@command
def calibrate(
    session: Session,
    model: ModelArgument,
    file: Annotated[
        Path | None, Argument(metavar="FILE", help="Normal lines. Default, and -: standard input.")
    ] = None,
    rolling: Annotated[
        bool | None,
        Option("--rolling/--no-rolling", help="Let the calibration follow ingested lines, or not."),
    ] = None,
    list_: Annotated[bool, Option("--list", help="List the model's calibrations.")] = False,
    delete: Annotated[str | None, Option(metavar="NAME", help="Delete the calibration of this name.")] = None,
    **options: Unpack[CalibrationOptions],
) -> None:
    """Calibrate a model on normal lines, so that its scores become p-values.

    Example: nextchar calibrate app normal.log --name host1
    """
    if list_:
        _list(session, model)
    elif delete is not None:
        session.client.delete_calibration(model, delete)
        deleted = {"object": "calibration", "name": delete, "deleted": True}
        session.print_result(deleted, f"deleted {delete}")
    elif rolling is not None:
        if file is not None or options:
            raise typer.BadParameter("give --rolling or --no-rolling alone: it makes no calibration")
        _set_rolling(session, model, is_on=rolling)
    else:
        if (file is not None) + bool(options.get("corpus")) + bool(options.get("ingested")) > 1:
            raise typer.BadParameter("give one of a file, --corpus and --ingested")
        has_lines = options.get("corpus") is None and not options.get("ingested")
        lines = _read_lines(file or Path("-")) if has_lines else None
        _print_calibration(session, session.client.calibrate(model, lines, **options))


def _list(session: Session, model: str) -> None:
    columns: dict[str, Callable[[Calibration], str]] = {
        "name": lambda calibration: calibration["name"],
        "lines": lambda calibration: format_integer(calibration["lines"]),
        "rarest score": _rarest,
        "source": lambda calibration: calibration["source"],
        "created": lambda calibration: format_time(calibration["created_at"]),
    }
    empty = f"there is no calibration yet; make one with `nextchar calibrate {model} FILE`"
    session.print_list(session.client.calibrations(model), columns, if_empty=empty)


def _set_rolling(session: Session, model: str, *, is_on: bool) -> None:
    made = session.client.change_ingest_settings(model, recalibrate="rolling" if is_on else "never")
    follows = "follows" if is_on else "does not follow"
    session.print_result(made, f"the calibration of {made['model']} {follows} ingested lines")


def _print_calibration(session: Session, made: Calibration) -> None:
    buckets = made["buckets"]
    lengths = ("longer" if b["longest"] is None else f"up to {b['longest']} characters" for b in buckets)
    counts = (format_integer(b["lines"]) for b in buckets)
    described = ", ".join(f"{a}: {b} lines" for a, b in zip(lengths, counts, strict=True))
    fields = [
        ("name", made["name"]),
        ("lines", format_integer(made["lines"])),
        ("rarest score", _rarest(made)),
        ("source", made["source"]),
        ("buckets", described if len(buckets) > 1 else None),
    ]
    session.print_record(made, fields)


def _rarest(calibration: Calibration) -> str:
    """Return the smallest p-value of a calibration as "1 in N"."""
    beyond = ", rarer by a fitted tail" if calibration["has_tail"] else ""
    return f"{rarity(calibration['smallest_p_value'])}{beyond}"


def _read_lines(file: Path) -> list[str]:
    lines = read_bytes(file).decode(errors="replace").removesuffix("\n").split("\n")
    if lines in ([""], ["\r"]):
        raise NextcharError("there are no lines to calibrate on; the text is empty")
    return lines
