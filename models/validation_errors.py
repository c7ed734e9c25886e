"""pydantic's errors as sentences: which field is wrong, what it must be, and what it is.

For the bodies of requests, the settings of the environment and the options of `nextchar.train`.

Reads records, and distinguishes those that a newer version of nextchar has written from damaged ones.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_MAX_REPORTED_ERRORS = 1000  # of a body, which may have a million
_MAX_VALUE_CHARACTERS = 40
_MAX_SHOWN_INTEGER = 10**18

_REQUIREMENTS = {
    "Input should be ": "must be ",
    "String should match pattern": "must match the pattern",
    "String should ": "must ",
    "List should ": "must ",
    "Dictionary should ": "must ",
    "Field required": "is missing",
    "Value error, ": "",
}
"""How pydantic's messages begin, and what they begin with here."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Names given by users, which appear in URLs, in paths and before an @."""

NAME_RULE = "1 to 64 letters, digits, '.', '_' and '-', starting with a letter or digit"
"""The same in words."""

_SYNONYMS = {
    "batch_size": "rows",
    "big": "large",
    "hidden_size": "units",
    "lr": "learning_rate",
    "lstm": "stateful_lstm",
    "max_new_tokens": "max_characters",
    "max_tokens": "max_characters",
    "num_layers": "layers",
    "num_return_sequences": "n",
    "rnn": "simple_rnn",
    "patience": "early_stopping",
    "seq_length": "window",
    "sequence_length": "window",
}
"""What others call a field or a value, and its name here."""

_WITH_VALUE = frozenset("literal_error greater_than greater_than_equal less_than less_than_equal".split())  # noqa: SIM905


def first_problem(errors: Sequence[Any], of: Any = None) -> tuple[str, str]:
    """Return the first wrong field, dotted for nested ones, and a sentence that names it and its problem.

    `errors` are what pydantic's `errors()` returns for a value of the type `of`, by which the sentence for an
    unknown field names the closest known one. Of two wrong fields the sentence describes both, of more it has
    their number. A field of a union type has errors for each member of the union: the sentence is about the
    member that matched best; if none matched at all, it lists all of them.
    """
    errors = errors[:_MAX_REPORTED_ERRORS]
    param, sentence = _problem_of(errors, param_of(errors[0]), of)
    more = list(dict.fromkeys(p for e in errors if not _is_within(p := param_of(e), param_of(errors[0]))))
    if len(more) == 1:
        other, problem = _problem_of(errors, more[0], of)
        return param, f"{param}: {sentence}; {other}: {problem}"
    if not param:  # the whole is wrong
        return param, sentence
    others = f" ({len(more)} more fields are invalid)" if more else ""
    return param, f"{param}: {sentence}{others}"


def param_of(error: Any) -> str:
    """Return the dotted path of an error's field, without the names of union members in it."""
    path = error["loc"]
    names = [str(part) for part in path if _is_name(part)]
    if error["type"] == "extra_forbidden" and not _is_name(path[-1]):
        names.append(repr(path[-1][:100]))  # an unknown field may have any name
    return ".".join(names)


def requirement(error: Any) -> str:
    """Return what a value must be, in terms of JSON instead of Python.

    >>> requirement({"type": "less_than", "msg": "Input should be less than 1", "loc": ("rate",)})
    'must be less than 1'
    >>> requirement({"type": "less_than_equal", "msg": "", "loc": ("steps",), "ctx": {"le": 1e6}})
    'must be at most 1000000'
    """
    kind, message = error["type"], str(error["msg"])
    match kind:
        case "extra_forbidden":
            return "there is no such field"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "must be an object"
        case "string_pattern_mismatch" if error["ctx"]["pattern"] == f"^{NAME_PATTERN}$":
            return f"must be {NAME_RULE}"
        case "missing" if not error["loc"] or tuple(error["loc"]) == ("body",):
            return "the body is missing; send a JSON object"
        case "greater_than_equal" | "less_than_equal":
            bound = "at least" if kind == "greater_than_equal" else "at most"
            value = next(iter(error["ctx"].values()))
            message = f"must be {bound} {int(value) if value == int(value) else value}"
    begins = next((theirs for theirs in _REQUIREMENTS if message.startswith(theirs)), "")
    return _REQUIREMENTS.get(begins, "") + message.removeprefix(begins)


def did_you_mean(unknown: str, known: Iterable[str]) -> str:
    """Return an end of a sentence that names the known field, value or name which is meant, or nothing.

    Of a dotted field the last part counts, too, so a field can be found that stands one level deeper.

    >>> did_you_mean("promt", ["prompt", "n"])
    '; did you mean prompt?'
    >>> did_you_mean("batch_size", ["seed", "training.rows"])
    '; did you mean training.rows?'
    >>> did_you_mean("wbe", ["web", "notes"])
    '; did you mean web?'
    """
    fields = sorted(known, key=len, reverse=True)
    by_name = {key.lower(): field for field in fields for key in (field, field.rpartition(".")[2])}
    name = _SYNONYMS.get(unknown)
    typed = unknown.lower()
    closest = ([name] if name in by_name else difflib.get_close_matches(typed, by_name, n=1, cutoff=0.7)) or [
        one for one in by_name if sorted(one) == sorted(typed)
    ]  # two characters of a short name exchanged
    return f"; did you mean {by_name[closest[0]]}?" if closest else ""


def fields_at(of: Any, path: Sequence[str | int] = ()) -> set[str]:
    """Return the fields that a value of the type `of` has at a place, and those one level deeper, dotted."""
    models = set(_models_in(of))
    for part in path:  # which also has indices, keys and the names of union members
        if deeper := [m.model_fields[part].annotation for m in models if part in m.model_fields]:
            models = {model for kind in deeper for model in _models_in(kind)}
    return {
        name
        for model in models
        for field, info in model.model_fields.items()
        for name in [field, *(f"{field}.{f}" for m in _models_in(info.annotation) for f in m.model_fields)]
    }


def _models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the classes of objects in a type, such as the members of a union and the items of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models_in(part)


def _problem_of(errors: Sequence[Any], param: str, of: Any) -> tuple[str, str]:
    """Return the field that the errors of one field are about, and what is wrong with it."""
    candidates = [e for e in errors if _is_within(param_of(e), param)]
    best = min(candidates, key=lambda e: (_is_other_type(e), -len(e["loc"])))
    field = param_of(best)
    if not _is_other_type(best):
        meant = ""
        if best["type"] == "extra_forbidden" and of is not None:
            *place, unknown = best["loc"]
            where = ".".join(field.split(".")[:-1])
            meant = did_you_mean(
                str(unknown)[:100], (f"{where}.{f}" if where else f for f in fields_at(of, place))
            )
        return field, f"{requirement(best)}{meant}{_value_of(best)}"
    of_field = [e for e in candidates if param_of(e) == field]
    first, *rest = dict.fromkeys(map(requirement, of_field))
    alternatives = " or ".join([first, *(sentence.removeprefix("must be ") for sentence in rest)])
    values = re.findall(r"'([^']+)'", alternatives) if isinstance(best["input"], str) else []
    return field, f"{alternatives}{_value_of(best)}{did_you_mean(str(best['input'])[:100], values)}"


def _value_of(error: Any) -> str:
    """Return the wrong value if it is a short string or a number outside of bounds; nothing for others."""
    value = error["input"]
    if error["type"] not in _WITH_VALUE or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and abs(value) > _MAX_SHOWN_INTEGER:
        return ""
    is_number = error["type"] != "literal_error"  # of a query or an environment variable: in a string
    shown = value if is_number and isinstance(value, str) else json.dumps(value)
    return f", not {shown}" if len(shown) <= _MAX_VALUE_CHARACTERS else ""


def _is_other_type(error: Any) -> bool:
    return bool(error["type"].endswith("_type") or error["type"] == "literal_error")


def _is_within(param: str, of: str) -> bool:
    return param == of or param.startswith(f"{of}.")


def _is_name(part: str | int) -> bool:
    return re.fullmatch(r"[\w-]+", str(part)) is not None and part != "constrained-str"


_UNKNOWN = frozenset(
    """
    extra_forbidden unexpected_keyword_argument literal_error enum
    less_than less_than_equal greater_than greater_than_equal
    """.split()  # noqa: SIM905
)
"""pydantic's errors for fields and values that a model does not know, and for numbers beyond its bounds."""

UPGRADE = "was written by a newer version of nextchar; upgrade this process"


def load_record(data: bytes) -> Any:
    """Return the JSON in a record. Raises ValueError: it is none, or nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_of_newer_version(error: Exception) -> bool:
    """Return whether a record is refused only for fields and values that this version does not know.

    `error` is what reading it has raised. One flipped bit in a name is an unknown field and a missing one.
    """
    return isinstance(error, ValidationError) and all(
        one["type"] in _UNKNOWN for one in error.errors(include_url=False)
    )
