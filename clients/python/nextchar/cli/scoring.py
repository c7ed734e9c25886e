"""`nextchar score`: a heat map of a text's surprisal, or the anomalous lines of a log as they come."""

import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated, Unpack

import typer

from nextchar.cli import line_scoring, score_view
from nextchar.cli.names import complete_model
from nextchar.cli.session import Session, command, fail, print_unknown_characters, read_text
from nextchar.options import LineOptions

_TOP = 20  # lines of a long text
_OF_COMMAND = ("detail", "explain", "only")  # what these are follows from how lines are shown


def _complete_first_word(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a model's name in the first place only; elsewhere the shell completes file names."""
    has_model = context.params.get("model") or context.params.get("model_and_files")
    return [] if has_model else complete_model(context, incomplete)


@partial(command, without=_OF_COMMAND)
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
    by_line: Annotated[bool, typer.Option("--lines", help="Score each line of a text by itself.")] = False,
    top: Annotated[
        int | None,
        typer.Option(help=f"Number of lines of a long text to show, most anomalous first. Default: {_TOP}."),
    ] = None,
    patience: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long to retry when the service is away.")
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
            session, model, words or ["-"], options, show_all=show_all, patience_s=patience_s
        )
    if not words:
        raise typer.BadParameter(
            "name a model: MODEL [FILE] shows a heat map, --model MODEL prints anomalous lines"
        )
    if options or patience is not None or len(words) > 2:
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
