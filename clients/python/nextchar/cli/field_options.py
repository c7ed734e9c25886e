"""Options of a command from the fields of a type, so that the command has all that a call takes."""

import inspect
import re
from collections import abc
from collections.abc import Iterator
from typing import get_args, get_origin, get_type_hints

import typer

_DOCUMENTED_FIELD = re.compile(r'^ {4}(\w+): [^\n]+\n {4}"""(.+?)"""$', re.MULTILINE | re.DOTALL)


def field_options(fields: type) -> Iterator[inspect.Parameter]:
    """Yield a parameter for each field of a TypedDict of `nextchar.options`, with its docstring as help.

    A field of one letter has a short option, too; an option for a text or a sequence can be repeated.
    """
    panel = fields.__name__.removesuffix("Options")
    helps = dict(_DOCUMENTED_FIELD.findall(inspect.getsource(fields)))
    for name, kind in get_type_hints(fields).items():
        can_repeat = any(get_origin(part) is abc.Sequence for part in get_args(kind))
        names = (f"--{name}", f"-{name}") if len(name) == 1 else ()
        text = " ".join(helps.get(name, "").replace("`", "").split())
        option = typer.Option(None, *names, help=text, rich_help_panel=panel)
        annotation = list[str] | None if can_repeat else kind
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)
