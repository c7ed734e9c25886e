"""Regular expressions that users bring: RE2, in linear time and within a limit of memory."""

from typing import Any

import re2

from nextchar.models.errors import InvalidInput

_MAX_COMPILED_BYTES = 2 << 20  # RE2 rejects larger ones


def compile_pattern(pattern: str | bytes, *, code: str, param: str, what: str = "", use: str = "") -> Any:
    """Return a compiled RE2 expression.

    Raises:
        InvalidInput: it is not valid, or too large. The message says that it is not `what`, and what to use.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_COMPILED_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise InvalidInput(
            f"{pattern[:80]!r} is not {what or 'an RE2 expression'}: {why}" + (f"; use {use}" if use else ""),
            code=code,
            param=param,
        ) from None
