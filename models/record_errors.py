"""Reads records, and distinguishes those that a newer version of nextchar has written from damaged ones."""

import json
from typing import Any

from pydantic import ValidationError

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
