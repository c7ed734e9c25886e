"""Fields of requests as options: a command has all that a call takes, and sentences name the options."""

import inspect
import re
from collections import abc
from collections.abc import Collection, Iterator
from datetime import datetime
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import typer
from typer import Option

from nextchar import options
from nextchar.cli.names import complete_corpus, complete_model

_CLASS = re.compile(r"^class (\w+)\((\w+).*?\n(.*?)(?=^class |\Z)", re.MULTILINE | re.DOTALL)
_DOCUMENTED_FIELD = re.compile(r'^ {4}(\w+): [^\n]+\n {4}"""(.+?)"""$', re.MULTILINE | re.DOTALL)


def date(text: str) -> float:
    """Return the Unix time of a date in the local time zone."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a date; write 2026-12-31 or 2026-12-31T18:00") from None


_MASKS = (
    "What to replace by a placeholder: names, such as timestamp,ip,long_numbers, or an RE2 expression; can be"
    " repeated. none: nothing. auto: what the service finds in the text. Default: auto for a log."
)
_DEVIATIONS: dict[str, dict[str, Any]] = {
    "AlertOptions.since": {"metavar": "DATE", "parser": date, "help": "Only alerts with a line since then."},
    "AlertOptions.until": {"metavar": "DATE", "parser": date, "help": "Only alerts with a line until then."},
    "AlertOptions.state": {"help": "Only alerts in this state."},
    "AliasOptions.calibration": {"name": "calibrated", "help": "Require a calibration."},
    "AliasOptions.max_bits_per_character": {"name": "max-bits"},
    "AliasOptions.acceptance_over_shown": {"name": "acceptance-over"},
    "AliasOptions.max_regression_bits": {"name": "max-regression"},
    "AuditOptions.since": {"metavar": "DATE", "parser": date, "help": "Calls at or after this time."},
    "AuditOptions.until": {"metavar": "DATE", "parser": date, "help": "Calls at or before this time."},
    "CalibrationOptions.name": {
        "help": "Name of the calibration, such as a host's. Default: default, which is used where none is"
        " named."
    },
    "CalibrationOptions.false_alarms": {
        "metavar": "RATE",
        "help": "Refuse if there are too few lines for this false-alarm rate.",
    },
    "CorpusOptions.name": {"help": "Name of the corpus. Default: the file's name."},
    "CoveringOptions.values": {
        "name": "value",
        "metavar": "VALUE",
        "help": "Cover lines with this value; repeatable. Default: that of the line in the title.",
    },
    "CoveringOptions.runbook": {
        "metavar": "URL",
        "help": "The address of instructions, sent with the alert.",
    },
    "EvaluationOptions.worst": {"help": "Number of misses and of false alarms to show. Default: 3."},
    "LineOptions.explain": {"help": "Explain the most anomalous lines. Default: no."},
    "MixOptions.corpus": {"name": "mix", "metavar": "CORPUS", "autocompletion": complete_corpus},
    "MixOptions.fraction": {"name": "mix-fraction"},
    "SuggestedLineOptions.columns": {"name": "column", "metavar": "COLUMN"},
    "SuggestedLineOptions.exclude_patterns": {"name": "exclude-pattern", "metavar": "RE2"},
    "TargetOptions.events": {
        "name": "event",
        "metavar": "TYPE",
        "help": "job.failed, alias.moved, …; can be repeated. Default: alerts.",
    },
    "TargetOptions.models": {"name": "model", "metavar": "PATTERN"},
    "alert_labels": {
        "name": "alerts",
        "help": "Evaluate on the lines of labeled alerts too; no FILE is needed.",
    },
    "architecture": {
        "metavar": "NAME",
        "help": "An architecture of the lecture notes, such as nth_char; the error for a wrong name lists"
        " all. Default: stateful_lstm.",
    },
    "calibration": {"metavar": "NAME"},
    "corpus": {"metavar": "CORPUS", "autocompletion": complete_corpus},
    "false_alarms": {"metavar": "RATE"},
    "masks": {"metavar": "MASKS", "help": _MASKS},
    "purpose": {"name": "for"},
    "seconds": {"help": "Training time. Default: 60."},
    "source": {"metavar": "NAME"},
    "start_from": {"metavar": "MODEL", "autocompletion": complete_model},
    "stream_id": {"metavar": "NAME"},
    "teacher": {"metavar": "MODEL", "autocompletion": complete_model},
    "train_fraction": {"help": "Fraction of the lines to learn from. Default: 0.5."},
}
"""Where an option is not just its field: of one type, or of all that have the field."""

_PANELS = {
    "CompletionOptions": "Completion",
    "LineOptions": "Anomalous lines (with --model)",
    "MixOptions": "Mixing in a second corpus",
    "NetworkOptions": "Network",
    "RecipeOptions": "Optimization",
    "SuggestedLineOptions": "Suggestions",
}

_ADVISED = {
    name: f"--{_DEVIATIONS.get(name, {}).get('name', name)}"
    for name in ("purpose", "masks", "kind", "coverage")
}
"""The options of `nextchar train` for the fields that advice names."""

_FIELD = re.compile(rf'"({"|".join(_ADVISED)})": ("[^"]*"|\[[^\]]*\]|[\d.]+)')
_UPLOAD_ADVICE = "upload it with encoding=bytes"


def field_options(
    fields: type, without: Collection[str] = (), section: str = ""
) -> Iterator[tuple[tuple[str, ...], inspect.Parameter]]:
    """Yield the place of each field of a TypedDict of `nextchar.options` in a request, and its option.

    The docstring of a field is its help. A field of one letter has a short option, too; an option for a text
    or a sequence can be repeated. The fields of a section of the request are options, too.
    """
    helps = _helps(fields.__name__)
    for name, kind in get_type_hints(fields).items():
        parts = get_args(kind)
        if name in without:
            continue
        if nested := next(filter(is_typeddict, parts), None):
            yield from field_options(nested, section=name)
            continue
        deviation = _DEVIATIONS.get(f"{fields.__name__}.{name}") or _DEVIATIONS.get(name) or {}
        shown = {"help": helps.get(name), "rich_help_panel": _PANELS.get(fields.__name__)} | deviation
        option = shown.pop("name", name).replace("_", "-")
        names = [f"--{option}/--no-{option}" if bool in parts else f"--{option}"]
        names += [f"-{name}"] if len(name) == 1 else []
        values = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
        annotation: Any = Literal[values] | None if values else kind
        if any(get_origin(part) is abc.Sequence for part in parts):  # can be repeated
            annotation = list[str] | None
        path = (section, name) if section else (name,)
        parameter = inspect.Parameter(
            "_".join(path),
            inspect.Parameter.KEYWORD_ONLY,
            default=Option(None, *names, **shown),
            annotation=annotation,
        )
        yield path, parameter


def _helps(name: str) -> dict[str, str]:
    """Return the docstrings of the fields of a class of `nextchar.options`."""
    base, body = _classes().get(name, ("", ""))
    helps = {n: " ".join(text.replace("`", "").split()) for n, text in _DOCUMENTED_FIELD.findall(body)}
    return _helps(base) | helps if base else {}


@cache
def _classes() -> dict[str, tuple[str, str]]:
    """Return the base and the body of each of these classes."""
    return {name: (base, body) for name, base, body in _CLASS.findall(inspect.getsource(options))}


def with_options(sentence: str) -> str:
    """Return advice of the service with options of `nextchar train` instead of fields.

    >>> with_options('to generate text, pass "purpose": "complete" or "masks": []')
    'to generate text, pass --for complete or --masks none'
    >>> with_options('train with "masks": ["timestamp", "ip"], or with "coverage": 0.9995')
    'train with --masks timestamp,ip, or with --coverage 0.9995'
    """
    return _FIELD.sub(lambda found: f"{_ADVISED[found[1]]} {_value(found[2])}", sentence)


def error_with_options(sentence: str, param: str | None, context: typer.Context) -> str:
    """Return an error of the service with the options of the command that it ended.

    `param` is the field that the error names.
    """
    options = {
        parameter.name or "": next((name for name in parameter.opts if name.startswith("--")), "")
        for parameter in context.command.params
    }
    if _UPLOAD_ADVICE in sentence:
        advice = "pass --bytes" if "as_bytes" in options else "upload it with `nextchar corpus add --bytes`"
        if "alphabet" in options:
            advice = "pass --alphabet bytes"
        sentence = sentence.replace(_UPLOAD_ADVICE, advice)
    sentence = sentence.replace("or give another address", "or give another address with --server")
    if param and sentence.startswith(f"{param}: "):
        names = (param.replace(".", "_"), param.rpartition(".")[2], param.partition(".")[0])
        option = next(filter(None, map(options.get, names)), param)
        sentence = option + sentence.removeprefix(param)
    return with_options(sentence)


def _value(json_value: str) -> str:
    return ",".join(re.findall(r'[^\[\]", ]+', json_value)) or "none"
