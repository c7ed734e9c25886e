"""The templates of a saved model: their file. JSON, because it is small and can be read by people."""

import json
from collections.abc import Sequence
from typing import Any

from nextchar.models.errors import Unavailable
from nextchar.models.text.line_tokens import is_wildcard
from nextchar.models.text.templates import Frequencies, KnownTemplate, Slot, Templates

FILE = "templates.json"
"""The name of its file in a saved model. Older and imported models may have none."""

FORMAT_VERSION = 1

MAX_CHARACTERS = 1_000_000
"""Maximum number of characters, at the end of the training text, as for the n-grams."""


def templates_of(text: str) -> Templates:
    """Return the templates of the complete lines at the end of a training text."""
    lines = text[-MAX_CHARACTERS:].split("\n")[:-1]
    return Templates.fit(lines[1:] if len(text) > MAX_CHARACTERS else lines)


def dump(templates: Templates) -> bytes:
    """Return the contents of FILE."""
    record = {
        "format_version": FORMAT_VERSION,
        "lines": templates.lines,
        "unparsed": templates.unparsed,
        "common": sorted(templates.common),
        "templates": [
            {
                "tokens": known.tokens,
                "first_word": known.first_word,
                "count": known.count,
                "slots": [[_frequencies(slot.values), _frequencies(slot.shapes)] for slot in known.slots],
            }
            for known in templates.known
        ],
    }
    return json.dumps(record).encode()  # ASCII: text may contain half of a surrogate pair


def load(data: bytes) -> Templates:
    """Return the templates in the contents of FILE.

    Raises:
        Unavailable: it is damaged (code `model_damaged`), or of a format that this program does not know
            (`model_format_unknown`).
    """
    try:
        record = json.loads(data)
        version = record["format_version"]
        if version != FORMAT_VERSION:
            raise Unavailable(
                f"{FILE} has format {version!r} and this program knows {FORMAT_VERSION}; update nextchar",
                code="model_format_unknown",
            )
        return Templates(
            [_known(one) for one in record["templates"]],
            lines=_count(record["lines"]),
            unparsed=_count(record["unparsed"]),
            common=frozenset(map(_text, record["common"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None


def _known(record: dict[str, Any]) -> KnownTemplate:
    tokens = tuple(None if token is None else _text(token) for token in record["tokens"])
    slots = tuple(Slot(*map(_loaded, pair)) for pair in record["slots"])
    if len(slots) != sum(map(is_wildcard, tokens)):
        raise ValueError("a wildcard has no values")
    return KnownTemplate(tokens, _text(record["first_word"]), _count(record["count"]), slots)


def _frequencies(one: Frequencies) -> Sequence[Any]:
    return [one.total, dict(one.kept)]


def _loaded(record: Sequence[Any]) -> Frequencies:
    total, kept = record
    counts = {_text(value): _count(count) for value, count in kept.items()}
    if sum(counts.values()) > _count(total):
        raise ValueError("counts do not add up")
    return Frequencies(total, counts)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a count is not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a token is not a text")
    return value
