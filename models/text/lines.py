"""Lines: cutting bytes and texts into them, and parsing each line that is to be scored as text or JSON.

A line ends with LF, which is not part of it, or with the text; after the last LF there is no empty line. CR
before LF is dropped by `LineParser`, unless the model knows CR. An error on one line is noted in its `meta`,
which is returned in that line's record; the stream continues.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nextchar.models.text.vocabulary import Vocabulary

MAX_LINE_CHARACTERS = 50_000
"""Longer lines are truncated, and their record says so."""

MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS
_MAX_ID_DEPTH = 100  # nested lists and objects; json.dumps fails on some thousands


@dataclass(frozen=True)
class RawLine:
    """A line: its first bytes and its offset in bytes; `is_truncated` if there were more."""

    offset: int
    data: bytes
    is_truncated: bool = False


class LineSplitter:
    r"""Splits bytes that arrive in pieces into lines, without their newlines.

    >>> splitter = LineSplitter(max_bytes=4)
    >>> [(l.offset, l.data, l.is_truncated) for l in splitter.feed(b"ab\ncdefgh\ni")], list(splitter.finish())
    ([(0, b'ab', False), (3, b'cdef', True)], [RawLine(offset=10, data=b'i', is_truncated=False)])
    """

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES, offset: int = 0) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()  # the beginning of the current line
        self._skipped = 0  # its bytes beyond the maximum
        self._offset = offset  # where it begins

    def feed(self, data: bytes) -> Iterator[RawLine]:
        """Take the next bytes; yield the lines that end in them."""
        first, *rest = data.split(b"\n")
        self._hold(first)
        for part in rest:
            yield self._end()
            self._offset += 1
            self._hold(part)

    def finish(self) -> Iterator[RawLine]:
        """Yield the last line, if it has no newline."""
        if self._held:
            yield self._end()

    @property
    def is_too_long(self) -> bool:
        """Whether the current line already has more bytes than the maximum."""
        return self._skipped > 0

    def _hold(self, part: bytes) -> None:
        room = self._max_bytes - len(self._held)
        self._held += part[:room]
        self._skipped += max(0, len(part) - room)

    def _end(self) -> RawLine:
        line = RawLine(self._offset, bytes(self._held), self.is_too_long)
        self._offset += len(self._held) + self._skipped
        self._held.clear()
        self._skipped = 0
        return line


def lines_between(pieces: Iterable[bytes], start: int, end: int) -> Iterator[list[RawLine]]:
    """Yield the lines of a file that begin at `start` or later and before `end`, as they arrive.

    The pieces are the file's from one byte before `start` on: if it is a newline, a line begins at `start`.
    """
    at = line_at = max(0, start - 1)
    splitter = LineSplitter(offset=at)
    for piece in pieces:
        yield [line for line in splitter.feed(piece) if start <= line.offset < end]
        if newline := piece.rfind(b"\n") + 1:
            line_at = at + newline
        at += len(piece)
        if at >= end and not start <= line_at < end:  # the rest is not in the range
            return
    yield [line for line in splitter.finish() if start <= line.offset < end]


def split_lines(data: bytes) -> list[bytes]:
    r"""Return the lines of bytes that are there as a whole.

    >>> split_lines(b"ab\n\nc\n"), split_lines(b"c"), split_lines(b"")
    ([b'ab', b'', b'c'], [b'c'], [])
    """
    *lines, last = data.split(b"\n")
    return [*lines, last] if last else lines


def lines_of(pieces: Iterable[str], *, max_length: int = MAX_LINE_CHARACTERS + 1) -> Iterator[str]:
    r"""Yield the first `max_length` characters of each line of a text that arrives in pieces.

    >>> list(lines_of(["a", "b\nc", "\n"]))
    ['ab', 'c']
    """
    held = ""
    for piece in pieces:
        first, *rest = piece.split("\n")
        held += first[: max_length - len(held)]
        for line in rest:
            yield held
            held = line[:max_length]
    if held:
        yield held


def whole_lines(pieces: Iterable[str], *, max_held: int) -> Iterator[str]:
    r"""Yield a text that arrives in pieces in pieces of whole lines, and what follows the last of them.

    A line is divided once `max_held` characters of it have come without a newline.

    >>> list(whole_lines(["a", "b\nc", "d", "e"], max_held=3))
    ['ab\n', 'cde', '']
    """
    held: list[str] = []  # the pieces of an incomplete line
    length = 0
    for piece in pieces:
        complete, newline, rest = piece.rpartition("\n")
        if not newline and length + len(piece) < max_held:
            held.append(piece)
            length += len(piece)
            continue
        if not newline:
            complete, rest = piece, ""
        yield "".join([*held, complete, newline])
        held, length = [rest], len(rest)
    yield "".join(held)


@dataclass(frozen=True)
class InputLine:
    """A line to be scored, or several that are one event (`nextchar.models.text.events`).

    `number` and `offset` are those of the first. `meta` are fields of its record: the client's id and errors.
    """

    number: int
    offset: int
    text: str | None  # characters after NFC, or bytes for a model of bytes; None if it cannot be scored
    meta: dict[str, Any]
    lines: int = 1


class LineParser:
    """Turns raw lines into characters."""

    def __init__(self, vocabulary: Vocabulary, *, is_json: bool) -> None:
        self._vocabulary = vocabulary
        self._is_json = is_json
        self._keeps_cr = "\r" in vocabulary.characters  # the model was trained on carriage returns
        self._number = 0

    def text_of(self, data: bytes) -> str:
        """Return the characters of a line of text, or of an event, that may be truncated."""
        lines = [
            self.parse(
                RawLine(1, line, is_truncated=len(line) >= MAX_LINE_BYTES)
            ).text  # no text begins with it
            for line in data.split(b"\n")
        ]
        return "\n".join(line for line in lines if line is not None)

    def parse(self, raw: RawLine) -> InputLine:
        """Return the line as characters after NFC, or as bytes for a model of bytes."""
        self._number += 1
        meta: dict[str, Any] = {}
        data = raw.data
        if raw.offset == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        if data.endswith(b"\r") and not self._keeps_cr and not raw.is_truncated:
            data = data[:-1]
        if self._is_json:
            text = self._from_json(data, raw, meta)
        elif self._vocabulary.alphabet == "bytes":
            text = data.decode("latin-1")
        else:
            text = self._vocabulary.to_characters(_decode_utf8(data, raw, meta))
        if text is not None and (raw.is_truncated or len(text) > MAX_LINE_CHARACTERS):
            text = text[:MAX_LINE_CHARACTERS]
            meta["truncated"] = True
        return InputLine(self._number, raw.offset, text, meta)

    def _from_json(self, data: bytes, raw: RawLine, meta: dict[str, Any]) -> str | None:
        try:
            value = json.loads(data) if not raw.is_truncated else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and _is_writable(value.get("id")):
            meta |= {"id": value["id"]} if "id" in value else {}
            value = value.get("line")
        if not isinstance(value, str):
            code, message = (
                ("line_too_long", f"longer than {MAX_LINE_BYTES:,} bytes, the limit for a line of JSON")
                if raw.is_truncated
                else ("malformed_line", "neither a JSON string nor an object with a string `line`")
            )
            meta["error"] = {"code": code, "message": message}
            return None
        if not value.isascii():  # JSON allows unpaired surrogates: they become U+FFFD
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._vocabulary.to_characters(value)


def _is_writable(value: Any) -> bool:
    """Whether an id can be written as JSON: not nested too deeply, and all its numbers finite."""
    if _is_nested_deeper(value, _MAX_ID_DEPTH):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_nested_deeper(value: Any, max_depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max_depth == 0 or any(_is_nested_deeper(part, max_depth - 1) for part in inner)


def _decode_utf8(data: bytes, raw: RawLine, meta: dict[str, Any]) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        is_cut = raw.is_truncated and error.end == len(data) and error.reason == "unexpected end of data"
        if not is_cut:
            meta["not_utf8"] = {"offset": raw.offset + error.start, "byte": f"{data[error.start]:#04x}"}
        return data.decode("utf-8", "replace")  # U+FFFD, which is unknown to the model
