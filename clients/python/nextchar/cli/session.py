"""What every command shares: its options, its two outputs, and how an error ends it.

Exit statuses: 0 success, 1 the service refused or could not be reached, 2 wrong usage, 130 Ctrl-C.
`score --model` has those of grep: see `line_scoring`.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

import typer
from rich.console import Console
from rich.text import Text

from nextchar.cli.fields import error_with_options, field_options
from nextchar.cli.formatting import print_fields, print_table, printable, to_json
from nextchar.cli.names import ApiKey, AsJson, Server, shared_option, with_suggestion
from nextchar.client import DEFAULT_SERVER, Client
from nextchar.errors import NextcharError


@dataclass(frozen=True)
class Session:
    """What one command works with: a client of the service, standard output and standard error."""

    client: Client
    out: Console
    err: Console
    as_json: bool
    invocation: typer.Context

    def print_json(self, value: Mapping[str, Any], *, lines: bool = False) -> None:
        """Print a response as JSON: indented, or on one line where more follow."""
        print(to_json(value, indent=None if lines else 1), file=self.out.file, flush=True)

    def print_text(self, text: str) -> None:
        """Print a line of the result, unwrapped."""
        self.out.print(Text(printable(text)), soft_wrap=True)

    def print_note(self, sentence: str) -> None:
        """Print a note, which is not part of the result, on standard error."""
        _print_sentence(self.err, sentence)

    def sentence_of(self, error: NextcharError) -> str:
        """Return the sentence for an error, with options instead of fields and names like an unknown one."""
        sentence = with_suggestion(error, self.client)
        return error_with_options(sentence, getattr(error, "param", None), self.invocation)

    def print_result(self, result: Mapping[str, Any], text: str) -> None:
        """Print a result as JSON, or a line that says the same."""
        if self.as_json:
            self.print_json(result)
        else:
            self.print_text(text)

    def print_record(self, record: Mapping[str, Any], fields: Sequence[tuple[str, str | None]]) -> None:
        """Print a record as JSON, or those of its fields that are not None."""
        if self.as_json:
            self.print_json(record)
        else:
            print_fields(self.out, [(name, text) for name, text in fields if text is not None])

    def print_list(
        self,
        items: Sequence[Any],
        columns: Mapping[str, Callable[[Any], str]],
        *,
        if_empty: str,
        **more: Sequence[Any],
    ) -> None:
        """Print a list as JSON, with `more` beside it, or as a table of columns; a note if it is empty."""
        if self.as_json:
            self.print_json({"object": "list", "data": items, **more})
            return
        print_table(self.out, list(columns), [[cell(item) for cell in columns.values()] for item in items])
        if not items:
            self.print_note(if_empty)


def standard_input() -> BinaryIO:
    """Return standard input. Raises OSError if the shell has closed it."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def read_bytes(file: Path) -> bytes:
    """Return the content of a file, or of standard input for `-`. Raises OSError."""
    return standard_input().read() if str(file) == "-" else file.read_bytes()


def read_text(file: Path) -> str:
    """Return a file's text, or standard input's for `-`. Raises what ends the command if it is not UTF-8."""
    raw = read_bytes(file)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise fail(f"the text is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}") from None


def print_unknown_characters(session: Session, characters: Sequence[str]) -> None:
    """Name the characters of a text that the model's vocabulary lacks, if there are any."""
    if characters:
        shown = " ".join(printable(c, inline=True) for c in characters[:20])
        more = f" and {len(characters) - 20} more" if len(characters) > 20 else ""
        session.print_note(f"not in the model's vocabulary: {shown}{more}")


def drop_output() -> None:
    """Discard what is still buffered for a closed pipe; Python would report an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(sentence: str, *, status: int = 1) -> typer.Exit:
    """Print one sentence on standard error; raise what this returns to end with a status."""
    _print_sentence(console(sys.stderr), f"nextchar: {sentence}")
    return typer.Exit(status)


def fail_for(error: OSError, *, status: int = 1) -> typer.Exit:
    """As `fail`, with the sentence for an error of a file."""
    where = f"{error.filename}: " if error.filename else ""
    return fail(f"{where}{error.strerror or error}", status=status)


def _print_sentence(stderr: Console, sentence: str) -> None:
    stderr.print(Text(printable(sentence)), soft_wrap=not stderr.is_terminal)


def command(function: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """Turn a function of a Session and its own arguments into a command that has the shared options too.

    If it takes `**options: Unpack[T]`, the fields of T are options, except those in `without`; those that are
    given are passed.
    """
    signature = inspect.signature(function, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    declared = [p for p in signature.parameters.values() if p.annotation is not Session]
    own = [p.replace(kind=keyword) for p in declared if p.kind is not p.VAR_KEYWORD]
    types = [get_args(p.annotation)[0] for p in declared if p.kind is p.VAR_KEYWORD]
    fields = [pair for type_ in types for pair in field_options(type_, without)]
    shared = [
        inspect.Parameter("invocation", keyword, annotation=typer.Context),
        inspect.Parameter("server", keyword, default=None, annotation=Server),
        inspect.Parameter("api_key", keyword, default=None, annotation=ApiKey),
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
    ]

    @functools.wraps(function)
    def run(*, invocation: typer.Context, **arguments: Any) -> None:
        options: dict[str, Any] = {p.name: arguments[p.name] for p in own}
        for (*section, field), parameter in fields:
            if (value := arguments[parameter.name]) not in (None, []):
                place = options.setdefault(section[0], {}) if section else options
                place[field] = value
        with _open_session(invocation) as session:
            try:
                function(session, **options)
            except NextcharError as error:
                raise fail(session.sentence_of(error)) from None

    parameters = own + [parameter for _, parameter in fields] + shared
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    del run.__wrapped__
    return run


def command_of(
    group: typer.Typer, name: str | None = None, *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator for a command of a group, or without a name for what the group does alone."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if name is not None:
            return group.command(name)(command(function, without=without))

        @functools.wraps(function)
        def run(session: Session) -> None:
            if session.invocation.invoked_subcommand is None:
                function(session)

        return group.callback(invoke_without_command=True)(command(run))

    return register


@contextmanager
def _open_session(invocation: typer.Context) -> Iterator[Session]:
    """Give a session with the shared options; end with a sentence and an exit status on an error.

    For `score --model` 1 is no error, so what no client can be made of is wrong usage.
    """
    server = shared_option(invocation, "server") or DEFAULT_SERVER
    api_key = shared_option(invocation, "api_key")
    as_json = bool(shared_option(invocation, "as_json"))
    try:
        client = Client(server, api_key=api_key)
    except NextcharError as error:
        raise fail(str(error), status=2) from None
    try:
        with client:
            yield Session(client, console(sys.stdout), console(sys.stderr), as_json, invocation)
    except NextcharError as error:
        raise fail(str(error)) from None
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(1) from None
    except OSError as error:
        raise fail_for(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def console(stream: Any) -> Console:
    """Return a console on a stream that never fails on a character the stream cannot show."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return _Console(file=stream, highlight=False, markup=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again, since the command may have an exit status of its own for it."""
        raise  # noqa: PLE0704 -- called while the error is being handled
