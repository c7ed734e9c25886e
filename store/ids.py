"""Ids: a prefix for the type, then characters that are safe in paths and URLs."""

import re
import secrets
import time

from nextchar.models.errors import InvalidInput
from nextchar.models.validation_errors import NAME_PATTERN, NAME_RULE


def new_id(prefix: str) -> str:
    """Return a new id; ids of one prefix sort by creation time.

    >>> new_id("job").startswith("job_")
    True
    """
    return f"{prefix}_{int(time.time() * 1000):011x}{secrets.token_hex(5)}"


def time_of_id(prefix: str, text: str) -> float | None:
    """Return the creation time of an id of `new_id`, in Unix seconds; None for other texts.

    >>> abs(time_of_id("job", new_id("job")) - time.time()) < 1
    True
    """
    return int(text.removeprefix(f"{prefix}_")[:11], 16) / 1000 if is_id(prefix, text) else None


def is_id(prefix: str, text: str) -> bool:
    """Return whether `text` has the form of an id with this prefix."""
    return re.fullmatch(prefix + "_[0-9a-f]{12,40}", text) is not None


def check_name(name: str, *, param: str = "name") -> str:
    """Return `name` if it is a valid name.

    Raises:
        InvalidInput: it does not match NAME_PATTERN, or has the form of an id.
    """
    if not re.fullmatch(NAME_PATTERN, name) or re.match(r"(corpus|job|model)_", name):
        raise InvalidInput(
            f"{name!r} is not a valid name: use {NAME_RULE}, and not with corpus_, job_ or model_",
            code="invalid_name",
            param=param,
        )
    return name
