"""From JSON Lines, the format of OpenAI's fine-tuning and batches, to what is stored.

Examples become the plain text that a job trains on:

    {"text": T}                        T, and a newline if it ends without one
    {"prompt": P, "completion": C}     P and C without a separator, and a newline if C ends without one

So a model completes a prompt with the completion and ends it with the line. The requests of a batch, lines
with a `custom_id`, are kept as they are; the first line decides which of the two a file has.
"""

import json
from typing import Any

from nextchar.app.http.bodies import LARGE_BYTES, MAX_CONTAINERS, parsed_bytes
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.models.text.lines import LineSplitter, RawLine

MAX_LINE_BYTES = 16 << 20
"""A longer line is refused, because a line is parsed in memory."""


class JsonLines:
    r"""Converts JSON Lines that arrive in pieces to text.

    >>> lines = JsonLines()
    >>> lines.feed(b'{"text": "ab"}\n{"prompt": "Q:", '), lines.feed(b'"completion": " A"}'), lines.finish()
    (b'ab\n', b'', b'Q: A\n')
    """

    def __init__(self) -> None:
        self._lines = LineSplitter(max_bytes=MAX_LINE_BYTES)
        self._line_number = 0
        self.are_requests: bool | None = None
        """Whether the lines are requests of a batch; None before the first line."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the text of complete lines. Raises InvalidInput for an invalid line."""
        text = b"".join(map(self._text, self._lines.feed(data)))
        if self._lines.is_too_long:  # refused before it ends
            return text + b"".join(map(self._text, self._lines.finish()))
        return text

    def finish(self) -> bytes:
        """Return the text of a last line without a newline."""
        return b"".join(map(self._text, self._lines.finish()))

    def _text(self, line: RawLine) -> bytes:
        self._line_number += 1
        if line.is_truncated:
            raise self._invalid(f"is longer than {MAX_LINE_BYTES:,} bytes")
        if not line.data.strip():
            return b""
        if self.are_requests:  # `nextchar.app.openai.batch_requests` checks them
            return line.data + b"\n"
        example = self._parsed(line.data)
        if self.are_requests is None:
            self.are_requests = isinstance(example, dict) and "custom_id" in example
            if self.are_requests:
                return line.data + b"\n"
        match example:
            case {"text": str(text)}:
                pass
            case {"prompt": str(prompt), "completion": str(completion)}:
                text = prompt + completion
            case {"messages": _}:
                raise self._invalid("is a chat, and these models complete texts")
            case _:
                raise self._invalid("is not an example")
        text += "" if text.endswith("\n") else "\n"
        return str(text).encode("utf-8", "surrogatepass")  # uploads refuse a lone surrogate

    def _parsed(self, line: bytes) -> Any:
        try:
            if len(line) > LARGE_BYTES:
                parsed_bytes(line)
            return json.loads(line)
        except TooLarge:
            raise self._invalid(
                f"has more than {MAX_CONTAINERS:,} lists, objects and fields, or too many values"
            ) from None
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deeply
            raise self._invalid("is not JSON") from None

    def _invalid(self, what: str) -> InvalidInput:
        return InvalidInput(
            f'line {self._line_number} of the file {what}; each line is {{"text": "…"}} or'
            ' {"prompt": "…", "completion": "…"}, or in the file of a batch'
            ' {"custom_id": "…", "method": "POST", "url": "/v1/completions", "body": {…}}',
            code="invalid_file_format",
            param="file",
        )
