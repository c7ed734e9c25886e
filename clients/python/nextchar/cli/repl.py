"""`nextchar complete MODEL --interactive`: a text by turns, a line typed, then a completion of it."""

import contextlib

from rich.text import Text

from nextchar.cli.formatting import printable
from nextchar.cli.session import Session, standard_input
from nextchar.errors import ServerError
from nextchar.options import CompletionOptions

HELP = "Enter a line: {model} continues it. Empty line: continue. :new: start over. Ctrl-D: end."

_INPUT_PROMPT = "› "
_SHOWN_CHARACTERS = 200  # of the text so far


def run_repl(session: Session, model: str, options: CompletionOptions) -> None:
    """Take turns until the input ends. An error of one turn is printed, and the text stays as it was."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- input() edits lines with it, where there is one
    session.print_note(HELP.format(model=model))
    text = ""
    while (line := _read_line()) is not None:
        if line.strip() == ":new":
            text = ""
            continue
        try:
            text = _turn(session, model, text + line, options)
        except ServerError as error:
            if error.status in (401, 403, 404):
                raise
            session.print_note(str(error))


def _read_line() -> str | None:
    try:
        return input(_INPUT_PROMPT if standard_input().isatty() else "")
    except EOFError:
        return None


def _turn(session: Session, model: str, text: str, options: CompletionOptions) -> str:
    """Show a completion of `text`; return both together."""
    if session.as_json:
        response = session.client.complete(model, text, **options)
        session.print_json(response, lines=True)
        return text + response["completions"][0]["text"]
    session.out.print(Text(printable(text[-_SHOWN_CHARACTERS:]), style="dim"), end="", soft_wrap=True)
    for event in session.client.stream(model, text, **options):
        if event["event"] == "piece":
            piece = event["data"]["text"]
            text += piece
            session.out.print(Text(printable(piece), style="bold"), end="", soft_wrap=True)
            session.out.file.flush()
    session.out.print()
    return text
