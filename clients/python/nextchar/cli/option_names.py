"""Sentences of the service in terms of the command line: it names fields of JSON, a user has options."""

import re
from collections.abc import Mapping
from typing import Any

import typer

_TRAINING_OPTIONS = {"purpose": "--for", "masks": "--masks", "kind": "--kind", "coverage": "--coverage"}
"""The options of `nextchar train` for the fields that advice names."""

_FIELD = re.compile(rf'"({"|".join(_TRAINING_OPTIONS)})": ("[^"]*"|\[[^\]]*\]|[\d.]+)')
_UPLOAD_ADVICE = "upload it with encoding=bytes"


def with_options(sentence: str) -> str:
    """Return advice of the service with options of `nextchar train` instead of fields.

    >>> with_options('to generate text, pass "purpose": "complete" or "masks": []')
    'to generate text, pass --for complete or --masks none'
    >>> with_options('train with "masks": ["timestamp", "ip"], or with "coverage": 0.9995')
    'train with --masks timestamp,ip, or with --coverage 0.9995'
    """
    return _FIELD.sub(lambda found: f"{_TRAINING_OPTIONS[found[1]]} {_value(found[2])}", sentence)


def error_with_options(sentence: str, param: str | None, context: typer.Context) -> str:
    """Return an error of the service with the options of the command that it ended.

    `param` is the field that the error names.
    """
    options = _options_of(context)
    if _UPLOAD_ADVICE in sentence:
        advice = "pass --bytes" if "as_bytes" in options else "upload it with `nextchar corpus add --bytes`"
        if "alphabet" in options:
            advice = "pass --alphabet bytes"
        sentence = sentence.replace(_UPLOAD_ADVICE, advice)
    sentence = sentence.replace("or give another address", "or give another address with --server")
    if param and (option := _option_of(param, options)) and sentence.startswith(f"{param}: "):
        sentence = option + sentence.removeprefix(param)
    return with_options(sentence)


def _options_of(context: typer.Context) -> Mapping[str, str]:
    """Return the options of a command by the names of its function's arguments."""
    options: dict[str, str] = {}
    for parameter in context.command.params:
        names: list[Any] = [name for name in parameter.opts if name.startswith("--")]
        if names and parameter.name:
            options[parameter.name] = names[0]
    return options


def _option_of(param: str, options: Mapping[str, str]) -> str | None:
    """Return the option for a field; fields of `mix` are `--mix-fraction`, `--teacher` and so on."""
    names = (param.replace(".", "_"), param.rpartition(".")[2], param.partition(".")[0])
    return next((options[name] for name in names if name in options), None)


def _value(json_value: str) -> str:
    """Return a value of JSON as an option has it."""
    return ",".join(re.findall(r'[^\[\]", ]+', json_value)) or "none"
