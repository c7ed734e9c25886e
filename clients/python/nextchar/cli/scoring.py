"""`nextchar score`: a heat map of a text's surprisal, or the anomalous lines of a log as they come."""

import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nextchar.cli import line_scoring, score_view
from nextchar.cli.names import complete_model
from nextchar.cli.session import Session, command, fail, print_unknown_characters, read_text
from nextchar.connection import omit_none
from nextchar.options import Repeats, ScoreContext

_TOP = 20  # lines of a long text
_heat_map_option = partial(typer.Option, rich_help_panel="Heat map of a text")
_lines_option = partial(typer.Option, rich_help_panel="Anomalous lines (with --model)")


def _complete_first_word(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a model's name in the first place only; elsewhere the shell completes file names."""
    has_model = context.params.get("model") or context.params.get("model_and_files")
    return [] if has_model else complete_model(context, incomplete)


@command
def score(
    session: Session,
    model_and_files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL FILE",
            help="A model and a text; with --model, files of lines. Default, and -: standard input.",
            autocompletion=_complete_first_word,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Print anomalous lines as they come, as grep does.",
            autocompletion=complete_model,
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show all lines, in order.")] = False,
    by_line: Annotated[bool, _heat_map_option("--lines", help="Score each line by itself.")] = False,
    top: Annotated[
        int | None,
        _heat_map_option(
            help=f"Number of lines of a long text to show, most anomalous first. Default: {_TOP}."
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        _lines_option(
            metavar="RATE",
            help="False-alarm rate: fraction of normal lines that may be flagged. Default: 0.01.",
        ),
    ] = None,
    calibration: Annotated[
        str | None, _lines_option(metavar="NAME", help="Calibration to compare with.")
    ] = None,
    context: Annotated[
        ScoreContext | None, _lines_option(help="stream: read each line after those before it.")
    ] = None,
    stream_id: Annotated[
        str | None,
        _lines_option(metavar="NAME", help="With --context stream: continue the stream of this name."),
    ] = None,
    expected: Annotated[
        int | None,
        _lines_option(min=1, max=20, help="Number of expected characters to show at each anomalous place."),
    ] = None,
    repeats: Annotated[
        Repeats | None,
        _lines_option(help="Of many lines alike: count: print the first ones; flag: print all."),
    ] = None,
    alerts: Annotated[
        bool, _lines_option("--alerts", help="Record flagged lines in the model's alerts.")
    ] = False,
    source: Annotated[
        str | None, _lines_option(metavar="NAME", help="With --alerts: where the lines come from.")
    ] = None,
    patience: Annotated[
        float | None, _lines_option(metavar="SECONDS", help="How long to retry when the service is away.")
    ] = None,
) -> None:
    """Show a heat map of a text's surprisal; with --model, print the anomalous lines of a log as they come.

    With --model the exit status is that of grep: 0 if a line was flagged, 1 if none was, 2 on an error.

    Examples:
      nextchar score nietzsche draft.txt
      tail -f app.log | nextchar score --model app --false-alarms 0.001
    """
    options = omit_none(
        false_alarms=false_alarms,
        calibration=calibration,
        context=context,
        stream_id=stream_id,
        expected=expected,
        patience_s=patience,
        repeats=repeats,
        alerts=alerts or None,
        source=source,
    )
    words = model_and_files or []
    if model is not None:
        if by_line:
            raise typer.BadParameter("--lines is for the heat map of a text; --model always scores lines")
        if top is not None:
            raise typer.BadParameter("--top is for the heat map of a text; --model prints all flagged lines")
        line_scoring.print_anomalous_lines(
            session, model, words or ["-"], line_scoring.Options(show_all=show_all, **options)
        )
        return
    if not words:
        raise typer.BadParameter(
            "name a model: MODEL [FILE] shows a heat map, --model MODEL prints anomalous lines"
        )
    if options or len(words) > 2:
        raise typer.BadParameter(
            f"these options need --model: nextchar score --model {words[0]} {' '.join(words[1:])}".rstrip()
        )
    file = Path(words[1] if words[1:] else "-")
    top = _TOP if top is None else top
    _show_heat_map(session, words[0], file, by_line=by_line, top=None if show_all else top)


def _show_heat_map(session: Session, model: str, file: Path, *, by_line: bool, top: int | None) -> None:
    text = unicodedata.normalize("NFC", read_text(file))
    lines = score_view.lines_of_text(text)
    if not lines:
        raise fail("there is nothing to score; the text is empty")
    response = session.client.score(model, [line.removesuffix("\n") for line in lines] if by_line else text)
    if session.as_json:
        session.print_json(response)
        return
    score_view.show(session.out, response, lines, top=top)
    print_unknown_characters(session, response["unknown_characters"])
