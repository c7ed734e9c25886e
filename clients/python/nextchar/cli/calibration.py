"""`nextchar calibrate`: make, list and delete a model's calibrations."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nextchar.cli.flagged_lines import rarity
from nextchar.cli.formatting import format_integer, format_time, print_fields
from nextchar.cli.names import ModelArgument, complete_corpus
from nextchar.cli.session import Session, command, read_bytes
from nextchar.connection import omit_none
from nextchar.errors import NextcharError
from nextchar.types import Calibration


@command
def calibrate(
    session: Session,
    model: ModelArgument,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Normal lines. Default, and -: standard input.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the calibration, such as a host's. Default: default, which is used where none is"
            " named."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="Take the lines of this corpus.", autocompletion=complete_corpus),
    ] = None,
    ingested: Annotated[
        bool,
        typer.Option("--ingested", help="Take the newest lines that log agents have sent, at most 1,000."),
    ] = False,
    buckets: Annotated[
        int | None, typer.Option(help="Compare lines of similar length only, in this many buckets.")
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Refuse if there are too few lines for this false-alarm rate."),
    ] = None,
    rolling: Annotated[
        bool | None,
        typer.Option("--rolling/--no-rolling", help="Let the calibration follow ingested lines, or not."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the model's calibrations.")] = False,
    delete: Annotated[
        str | None, typer.Option(metavar="NAME", help="Delete the calibration of this name.")
    ] = None,
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
        if any(given is not None for given in (file, corpus, name, buckets, false_alarms)) or ingested:
            raise typer.BadParameter("give --rolling or --no-rolling alone: it makes no calibration")
        _set_rolling(session, model, is_on=rolling)
    else:
        if (corpus is not None) + (file is not None) + ingested > 1:
            raise typer.BadParameter("give one of a file, --corpus and --ingested")
        body = omit_none(
            name=name, corpus=corpus, ingested=ingested or None, buckets=buckets, false_alarms=false_alarms
        )
        if corpus is None and not ingested:
            body["lines"] = _read_lines(file or Path("-"))
        _print_calibration(session, session.client.calibrate(model, **body))


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
    if session.as_json:
        session.print_json(made)
        return
    fields = [
        ("name", made["name"]),
        ("lines", format_integer(made["lines"])),
        ("rarest score", _rarest(made)),
        ("source", made["source"]),
    ]
    if len(made["buckets"]) > 1:
        buckets = made["buckets"]
        lengths = ("longer" if b["longest"] is None else f"up to {b['longest']} characters" for b in buckets)
        counts = (format_integer(b["lines"]) for b in buckets)
        fields.append(("buckets", ", ".join(f"{a}: {b} lines" for a, b in zip(lengths, counts, strict=True))))
    print_fields(session.out, fields)


def _rarest(calibration: Calibration) -> str:
    """Return the smallest p-value of a calibration as "1 in N"."""
    beyond = ", rarer by a fitted tail" if calibration["has_tail"] else ""
    return f"{rarity(calibration['smallest_p_value'])}{beyond}"


def _read_lines(file: Path) -> list[str]:
    lines = read_bytes(file).decode(errors="replace").removesuffix("\n").split("\n")
    if lines in ([""], ["\r"]):
        raise NextcharError("there are no lines to calibrate on; the text is empty")
    return lines
