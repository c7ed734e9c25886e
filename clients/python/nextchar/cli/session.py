"""What every command shares: its options, its two outputs, and how an error ends it.

Exit statuses: 0 done, 1 the service refused or could not be reached, 2 wrong usage, 130 Ctrl-C.
`score --model` has grep's: see `anomalies`.
"""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from nextchar.cli.render import visible
from nextchar.client import DEFAULT_SERVER, Client
from nextchar.errors import ClientError

Server = Annotated[
    str, typer.Option("--server", envvar="NEXTCHAR_SERVER", help="Where the service is.", metavar="URL")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="NEXTCHAR_API_KEY", help="Your key, if it wants one.", show_envvar=True),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's own answers, as JSON.")]


@dataclass(frozen=True)
class Session:
    """One run of one command."""

    client: Client
    out: Console
    err: Console
    as_json: bool

    def json(self, value: Mapping[str, Any], *, lines: bool = False) -> None:
        """Print an answer as JSON: indented, or on one line where more follow."""
        print(
            json.dumps(value, ensure_ascii=False, indent=None if lines else 1), file=self.out.file, flush=True
        )

    def say(self, sentence: str) -> None:
        """Tell the person at the terminal something that is no result."""
        self.err.print(Text(visible(sentence)), soft_wrap=True)


def drop_output() -> None:
    """Let what is still to be written vanish: its reader has enough, and Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(sentence: str, *, status: int = 1) -> typer.Exit:
    """Print one sentence on standard error; raise what this returns to end with a status."""
    print(f"nextchar: {visible(sentence)}", file=sys.stderr)
    return typer.Exit(status)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn a function of a Session and its own arguments into a command with the shared options too."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.annotation is not Session]
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter("server", keyword, default=DEFAULT_SERVER, annotation=Server),
        inspect.Parameter("api_key", keyword, default=None, annotation=ApiKey),
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
    ]

    @functools.wraps(function)
    def run(*, server: str, api_key: str | None, as_json: bool, **arguments: Any) -> None:
        try:
            with Client(server, api_key=api_key) as client:
                function(Session(client, console(sys.stdout), console(sys.stderr), as_json), **arguments)
        except ClientError as error:
            raise fail(str(error)) from None
        except BrokenPipeError:
            drop_output()
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise fail(f"{where}{error.strerror or error}") from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    parameters = [p.replace(kind=keyword) for p in own] + shared
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    del run.__wrapped__
    return run


def console(stream: Any) -> Console:
    """Return a console on a stream that never fails on a character the stream cannot show."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return _Console(file=stream, highlight=False, markup=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command, which may have an exit status of its own: called while it is handled."""
        raise  # noqa: PLE0704
