"""`nextchar score`: a heat map of a text's surprisal, or the anomalous lines of a log as they come.

`nextchar calibrate`: make, list and delete a model's calibrations.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Unpack

import typer
from rich.console import Console
from rich.text import Text
from typer import Argument, Option

from nextchar.cli import line_scoring
from nextchar.cli.flagged_lines import rarity
from nextchar.cli.formatting import (
    character_bits,
    format_integer,
    format_time,
    heatmap,
    legend,
    peaks,
    printable,
)
from nextchar.cli.names import ModelArgument, complete_model
from nextchar.cli.session import Session, command, fail, print_unknown_characters, read_bytes, read_text
from nextchar.errors import NextcharError
from nextchar.options import CalibrationOptions, LineOptions
from nextchar.types import Calibration, Score

_CONTEXT = 24  # characters shown on each side of a peak
_MAX_PEAKS = 5
_TOP = 20  # lines of a long text
_OF_COMMAND = ("detail", "explain", "only")  # what these are follows from how lines are shown


@dataclass(frozen=True)
class LineSurprisal:
    """One line, its number from 1, and the surprisal of its characters in bits."""

    number: int
    text: str
    bits: Sequence[float]

    @property
    def mean(self) -> float:
        """Bits per character; 0 for an empty line."""
        return sum(self.bits) / len(self.bits) if self.bits else 0.0


def _lines_of_text(text: str) -> list[str]:
    r"""Split at newlines only, each line keeping its own.

    >>> _lines_of_text("a\u2028b\n\nc")
    ['a\u2028b\n', '\n', 'c']
    """
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _show(console: Console, score: Score, lines: Sequence[str], *, top: int | None) -> None:
    """Print the heat map of a scored text, or of its `top` most anomalous lines if it has more."""
    scored = _scored_lines(score, lines)
    total = f"{format_integer(score['total_bits'])} bits in total"
    summary = f"{score['bits_per_character']:.2f} bits per character, {total}"
    console.print(
        Text(f"{score['model']}: {format_integer(score['characters'])} characters, {summary}"), soft_wrap=True
    )
    console.print(legend(console), soft_wrap=True)
    console.print()
    if top is None or len(scored) <= top:
        text = "".join(line.text for line in scored)
        bits = [cost for line in scored for cost in line.bits]
        if score["lines"] is None:
            console.print(heatmap(text, bits, console))
            _print_peaks(console, text, bits)
            return
        shown_lines: Sequence[LineSurprisal] = scored
    else:
        shown_lines = sorted(scored, key=lambda line: -line.mean)[:top]
        console.print(
            Text(f"the {len(shown_lines)} most anomalous of {format_integer(len(scored))} lines:"),
            soft_wrap=True,
        )
    for line in shown_lines:
        console.print(Text(f"line {line.number}, {line.mean:.2f} bits per character", style="dim"))
        console.print(heatmap(line.text, line.bits, console))


def _scored_lines(score: Score, lines: Sequence[str]) -> list[LineSurprisal]:
    """Return each line with its bits, whether the text was scored as a whole or line by line."""
    if score["lines"] is not None:
        texts = [line.removesuffix("\n") for line in lines]
        scored = enumerate(zip(texts, score["lines"], strict=True), 1)
        return [LineSurprisal(n, text, _bits_of_text(text, one["bits"] or [])) for n, (text, one) in scored]
    bits, start, found = _bits_of_text("".join(lines), score["bits"] or []), 0, []
    for number, line in enumerate(lines, 1):
        found.append(LineSurprisal(number, line, bits[start : start + len(line)]))
        start += len(line)
    return found


def _bits_of_text(text: str, bits: Sequence[float]) -> Sequence[float]:
    """Return one number per character; a model of bytes gives one per byte."""
    return bits if len(bits) == len(text) else character_bits(text.encode(), bits)


def _print_peaks(console: Console, text: str, bits: Sequence[float]) -> None:
    found = peaks(bits, count=_MAX_PEAKS)
    if not found:
        return
    console.print()
    console.print(Text("highest surprisal"), style="dim")
    for peak in found:
        line = text.count("\n", 0, peak.start) + 1
        shown = Text(f"{peak.bits:6.1f} bits  line {line}  ", no_wrap=True, overflow="ellipsis")
        shown.append(printable(text[max(0, peak.start - _CONTEXT) : peak.start], inline=True), style="dim")
        shown.append(printable(text[peak.start : peak.end], inline=True), style="bold reverse")
        shown.append(printable(text[peak.end : peak.end + _CONTEXT], inline=True), style="dim")
        console.print(shown)


def _complete_first_word(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a model's name in the first place only; elsewhere the shell completes file names."""
    has_model = context.params.get("model") or context.params.get("model_and_files")
    return [] if has_model else complete_model(context, incomplete)


@partial(command, without=_OF_COMMAND)
def score(
    session: Session,
    model_and_files: Annotated[
        list[str] | None,
        Argument(
            metavar="MODEL FILE",
            help="A model and a text; with --model, files of lines. Default, and -: standard input.",
            autocompletion=_complete_first_word,
        ),
    ] = None,
    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Print anomalous lines as they come, as grep does.",
            autocompletion=complete_model,
        ),
    ] = None,
    show_all: Annotated[bool, Option("--all", help="Show all lines, in order.")] = False,
    one_of_each: Annotated[
        bool, Option("--one-of-each", help="With --model, print one line of each new kind of events instead.")
    ] = False,
    by_line: Annotated[bool, Option("--lines", help="Score each line of a text by itself.")] = False,
    top: Annotated[
        int | None,
        Option(help=f"Number of lines of a long text to show, most anomalous first. Default: {_TOP}."),
    ] = None,
    patience: Annotated[
        float | None, Option(metavar="SECONDS", help="How long to retry when the service is away.")
    ] = None,
    **options: Unpack[LineOptions],
) -> None:
    """Show a heat map of a text's surprisal; with --model, print the anomalous lines of a log as they come.

    With --model the exit status is that of grep: 0 if a line was flagged, 1 if none was, 2 on an error.

    Examples:
      nextchar score nietzsche draft.txt
      tail -f app.log | nextchar score --model app --false-alarms 0.001
    """
    words = model_and_files or []
    if model is not None:
        if by_line:
            raise typer.BadParameter("--lines is for the heat map of a text; --model always scores lines")
        if top is not None:
            raise typer.BadParameter("--top is for the heat map of a text; --model prints all flagged lines")
        patience_s = line_scoring.PATIENCE_S if patience is None else patience
        line_scoring.print_anomalous_lines(
            session,
            model,
            words or ["-"],
            options,
            show_all=show_all,
            one_of_each=one_of_each,
            patience_s=patience_s,
        )
    if not words:
        raise typer.BadParameter(
            "name a model: MODEL [FILE] shows a heat map, --model MODEL prints anomalous lines"
        )
    if options or one_of_each or patience is not None or len(words) > 2:
        raise typer.BadParameter(
            f"these options need --model: nextchar score --model {words[0]} {' '.join(words[1:])}".rstrip()
        )
    file = Path(words[1] if words[1:] else "-")
    top = _TOP if top is None else top
    _show_heat_map(session, words[0], file, by_line=by_line, top=None if show_all else top)


def _show_heat_map(session: Session, model: str, file: Path, *, by_line: bool, top: int | None) -> None:
    text = unicodedata.normalize("NFC", read_text(file))
    lines = _lines_of_text(text)
    if not lines:
        raise fail("there is nothing to score; the text is empty")
    response = session.client.score(model, [line.removesuffix("\n") for line in lines] if by_line else text)
    if session.as_json:
        session.print_json(response)
        return
    _show(session.out, response, lines, top=top)
    print_unknown_characters(session, response["unknown_characters"])


@command
def calibrate(
    session: Session,
    model: ModelArgument,
    file: Annotated[
        Path | None, Argument(metavar="FILE", help="Normal lines. Default, and -: standard input.")
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
