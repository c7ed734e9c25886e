"""`nextchar complete`, `next` and `suggest`: completions, the next character, and suggestions for a field.

With --interactive a text is written by turns: a line typed, then a completion of it.
"""

import contextlib
from pathlib import Path
from typing import Annotated, Unpack

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text
from typer import Argument, Option

from nextchar.cli.formatting import bar, print_table, printable
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command, print_unknown_characters, read_text, standard_input
from nextchar.errors import ServerError
from nextchar.options import CompletionOptions, NextOptions, SuggestOptions
from nextchar.types import Distribution

_SHOWN_PROMPT = 200  # characters of a prompt's end
_INPUT_PROMPT = "› "
_HELP = "Enter a line: {model} continues it. Empty line: continue. :new: start over. Ctrl-D: end."

PromptArgument = Annotated[
    str | None,
    Argument(metavar="PROMPT", help="Text to continue. Default: standard input without its last newline."),
]


@command
def complete(
    session: Session,
    model: ModelArgument,
    prompt: PromptArgument = None,
    stream: Annotated[bool, Option("--stream", help="Print characters as they are generated.")] = False,
    interactive: Annotated[
        bool, Option("--interactive", "-i", help="Read lines and complete each; default without a prompt.")
    ] = False,
    **options: Unpack[CompletionOptions],
) -> None:
    """Complete a prompt; in a terminal without a prompt, read it line by line.

    In a terminal the prompt is printed first, dimmed; into a pipe, the completions alone.

    Example: nextchar complete nietzsche "morality is " --temperature 0.7
    """
    if interactive or (prompt is None and standard_input().isatty()):
        if prompt is not None or options.get("n", 1) != 1:
            raise typer.BadParameter("--interactive reads the prompt line by line; leave out PROMPT and --n")
        _run_repl(session, model, options)
        return
    text = _read_prompt(prompt)
    if stream:
        _stream(session, model, text, options)
        return
    response = session.client.complete(model, text, **options)
    if session.as_json:
        session.print_json(response)
        return
    for choice in response["completions"]:
        if session.out.is_terminal:
            shown = Text(printable(text[-_SHOWN_PROMPT:]), style="dim")
            shown.append(printable(choice["text"]), style="not dim bold")
            session.out.print(shown, soft_wrap=True)
        else:
            print(choice["text"], file=session.out.file)
    print_unknown_characters(session, response["unknown_characters"])


@command
def next_character(
    session: Session, model: ModelArgument, prompt: PromptArgument = None, **options: Unpack[NextOptions]
) -> None:
    """Show the distribution of the next character, and its entropy.

    Example: nextchar next nietzsche "morality is " --top 5
    """
    response = session.client.next(model, _read_prompt(prompt), **options)
    if session.as_json:
        session.print_json(response)
        return
    if session.out.is_terminal:
        session.out.print(_distribution(response, session.out))
    else:
        rows = [(c["character"], f"{c['probability']:.6f}") for c in response["candidates"]]
        print_table(session.out, (), rows)
    print_unknown_characters(session, response["unknown_characters"])


@command
def suggest(
    session: Session,
    model: ModelArgument,
    prefix: Annotated[str, Argument(metavar="PREFIX", help="What has been typed into the field.")] = "",
    **options: Unpack[SuggestOptions],
) -> None:
    """Show different completions of a field, best first; of a model of records, lines of its corpus.

    Example: nextchar suggest cities berln
    """
    response = session.client.suggest(model, prefix, **options)
    if session.as_json:
        session.print_json(response)
        return
    rows = [
        (one["text"], f"{one['probability']:.4f}", f"{one['count']:,}", "" if one["exists"] else "generated")
        for one in response["suggestions"]
    ]
    print_table(session.out, ("text", "probability", "count", ""), rows)


def _stream(session: Session, model: str, prompt: str, options: CompletionOptions) -> None:
    if options.get("n", 1) != 1 and not session.as_json:
        raise typer.BadParameter("--stream prints one completion; leave out --n, or add --json")
    in_terminal = session.out.is_terminal and not session.as_json
    if in_terminal:
        session.out.print(Text(printable(prompt[-_SHOWN_PROMPT:]), style="dim"), end="", soft_wrap=True)
    for event in session.client.stream(model, prompt, **options):
        if session.as_json:
            session.print_json(event, lines=True)
        elif event["event"] == "piece":
            if in_terminal:
                _print_piece(session, event["data"]["text"])
            else:
                print(event["data"]["text"], end="", file=session.out.file, flush=True)
        elif event["event"] == "done":
            print(file=session.out.file)
            print_unknown_characters(session, event["data"]["unknown_characters"])


def _distribution(distribution: Distribution, console: Console) -> RenderableType:
    """Return the most probable next characters, with bars."""
    cells = max(4, min(50, console.width - 20))
    rows = [Text(f"{distribution['model']}: entropy {distribution['entropy_bits']:.2f} bits", style="dim")]
    for candidate in distribution["candidates"]:
        character = printable(candidate["character"], inline=True)
        if character == " " and not console.options.ascii_only:
            character = "␣"
        row = Text(f"  {character}  {candidate['probability']:7.2%}  ")
        row.append(bar(candidate["probability"], cells, console), style="cyan")
        rows.append(row)
    return Group(*rows)


def _read_prompt(prompt: str | None) -> str:
    if prompt is not None:
        return prompt
    # A command that silently waits for input at a terminal looks as if it hung.
    return "" if standard_input().isatty() else read_text(Path("-")).removesuffix("\n")


def _run_repl(session: Session, model: str, options: CompletionOptions) -> None:
    """Take turns until the input ends. An error of one turn is printed, and the text stays as it was."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- input() edits lines with it, where there is one
    session.print_note(_HELP.format(model=model))
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
    session.out.print(Text(printable(text[-_SHOWN_PROMPT:]), style="dim"), end="", soft_wrap=True)
    for event in session.client.stream(model, text, **options):
        if event["event"] == "piece":
            text += event["data"]["text"]
            _print_piece(session, event["data"]["text"])
    session.out.print()
    return text


def _print_piece(session: Session, text: str) -> None:
    session.out.print(Text(printable(text), style="bold"), end="", soft_wrap=True)
    session.out.file.flush()
