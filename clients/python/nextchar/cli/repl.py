"""`nextchar complete MODEL --interactive`: a text by turns, a line by hand, then some by the model."""

import contextlib
import sys
from typing import Any

from rich.text import Text

from nextchar.cli.render import visible
from nextchar.cli.session import Session
from nextchar.errors import ServerError

HELP = "Enter lets {model} go on, an empty line lets it go on again, :new begins anew, Ctrl-D ends"

_SIGN = "› "


def write_together(session: Session, model: str, options: dict[str, Any]) -> None:
    """Take turns until the input ends. A refusal is shown and the turn is taken again. Raises ClientError."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- input() edits lines with it, where there is one
    session.say(HELP.format(model=model))
    text = ""
    while (line := _line()) is not None:
        if line.strip() == ":new":
            text = ""
            continue
        try:
            text = _turn(session, model, text + line, options)
        except ServerError as error:
            if error.status in (401, 403, 404):
                raise
            session.say(str(error))


def _line() -> str | None:
    try:
        return input(_SIGN if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _turn(session: Session, model: str, text: str, options: dict[str, Any]) -> str:
    """Show how the model goes on from `text`; return both together."""
    if session.as_json:
        answer = session.client.complete(model, text, **options)
        session.json(answer, lines=True)
        return text + answer["completions"][0]["text"]
    session.out.print(Text(visible(text[-200:]), style="dim"), end="", soft_wrap=True)
    for event in session.client.stream(model, text, **options):
        if event["event"] == "piece":
            piece = event["data"]["text"]
            text += piece
            session.out.print(Text(visible(piece), style="bold"), end="", soft_wrap=True)
            session.out.file.flush()
    session.out.print()
    return text
