"""From JSON Lines of examples, the format of OpenAI's fine-tuning, to the plain text that a job trains on.

    {"text": T}                        T, and a newline if it ends without one
    {"prompt": P, "completion": C}     P and C without a separator, and a newline if C ends without one

So a model completes a prompt with the completion and ends it with the line.
"""

import json
from typing import Any

from models.errors import InvalidInput

MAX_LINE_BYTES = 16 << 20
"""A longer line is refused, because a line is parsed in memory."""


class JsonLines:
    r"""Converts JSON Lines that arrive in pieces to text.

    >>> lines = JsonLines()
    >>> lines.feed(b'{"text": "ab"}\n{"prompt": "Q:", '), lines.feed(b'"completion": " A"}'), lines.finish()
    (b'ab\n', b'', b'Q: A\n')
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._line_number = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the text of complete lines. Raises InvalidInput for an invalid line."""
        if b"\n" not in data:
            self._hold(data)
            return b""
        *lines, rest = b"".join([*self._rest, data]).split(b"\n")
        self._rest, self._rest_bytes = [], 0
        self._hold(rest)
        return b"".join(map(self._text, lines))

    def finish(self) -> bytes:
        """Return the text of a last line without a newline."""
        rest, self._rest = b"".join(self._rest), []
        return self._text(rest)

    def _hold(self, data: bytes) -> None:
        self._rest_bytes += len(data)
        if self._rest_bytes > MAX_LINE_BYTES:
            self._line_number += 1
            raise self._invalid(f"is longer than {MAX_LINE_BYTES:,} bytes")
        self._rest.append(data)

    def _text(self, line: bytes) -> bytes:
        self._line_number += 1
        if not line.strip():
            return b""
        try:
            example = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deeply
            raise self._invalid("is not JSON") from None
        match example:
            case {"text": str(text)}:
                pass
            case {"prompt": str(prompt), "completion": str(completion)}:
                text = prompt + completion
            case {"messages": _}:
                raise self._invalid("is a chat, and these models complete texts")
            case _:
                raise self._invalid("is not an example")
        return _encoded(text if text.endswith("\n") else text + "\n")

    def _invalid(self, what: str) -> InvalidInput:
        return InvalidInput(
            f'line {self._line_number} of the file {what}; each line is {{"text": "…"}} or'
            ' {"prompt": "…", "completion": "…"}',
            code="invalid_file_format",
            param="file",
        )


def _encoded(text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogatepass")  # uploads refuse a lone surrogate
