"""JSON Lines of examples, as OpenAI's fine-tuning takes them, to the plain text that is trained on.

    {"text": T}                        T, and a line's end if it has none
    {"prompt": P, "completion": C}     P, C directly behind it, and a line's end if C has none

So a model that is given a prompt goes on with the completion, and ends it with the line. Knows no HTTP.
"""

import json
from typing import Any

from models.errors import InvalidInput

LONGEST_LINE_BYTES = 16 << 20
"""A longer line is refused: it would have to be held whole."""


class JsonLines:
    r"""Turns JSON Lines that come in pieces into text.

    >>> lines = JsonLines()
    >>> lines.feed(b'{"text": "ab"}\n{"prompt": "Q:", '), lines.feed(b'"completion": " A"}'), lines.finish()
    (b'ab\n', b'', b'Q: A\n')
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._held = 0  # bytes of it
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """Take more; return the text of the lines that are whole. Raises InvalidInput for a wrong one."""
        if b"\n" not in data:
            self._hold(data)
            return b""
        *lines, rest = b"".join([*self._rest, data]).split(b"\n")
        self._rest, self._held = [], 0
        self._hold(rest)
        return b"".join(map(self._text, lines))

    def finish(self) -> bytes:
        """Return the text of a last line without an end."""
        rest, self._rest = b"".join(self._rest), []
        return self._text(rest)

    def _hold(self, data: bytes) -> None:
        self._held += len(data)
        if self._held > LONGEST_LINE_BYTES:
            self._number += 1
            raise self._wrong(f"is longer than {LONGEST_LINE_BYTES:,} bytes")
        self._rest.append(data)

    def _text(self, line: bytes) -> bytes:
        self._number += 1
        if not line.strip():
            return b""
        try:
            example = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested beyond all reason
            raise self._wrong("is not JSON") from None
        match example:
            case {"text": str(text)}:
                pass
            case {"prompt": str(prompt), "completion": str(completion)}:
                text = prompt + completion
            case {"messages": _}:
                raise self._wrong("is a chat, and these models go on from a text")
            case _:
                raise self._wrong("is not an example")
        return _encoded(text if text.endswith("\n") else text + "\n")

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(
            f'line {self._number} of the file {what}; each line is {{"text": "…"}} or'
            ' {"prompt": "…", "completion": "…"}',
            code="invalid_file_format",
            param="file",
        )


def _encoded(text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogatepass")  # a lone surrogate is refused where texts are checked
