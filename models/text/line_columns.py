"""Columns of a corpus of records: the text of each line, how often it occurs, and its source."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

from nextchar.models.errors import InvalidInput
from nextchar.models.text.lines import whole_lines

Column = Literal["text", "count", "source"]

SAMPLED_LINES = 1_000
"""How many lines decide whether a corpus has counts, if its job does not say so."""

_MIN_LINES = 3
_COUNTED = re.compile(r"\S.*\t\d{1,15}")
_MAX_HELD = 1 << 26  # characters of a line


@dataclass(frozen=True)
class Record:
    """A line: its text, how often it occurs, and where it comes from."""

    text: str
    count: int = 1
    source: str | None = None


def has_counts(lines: Iterable[str]) -> bool:
    r"""Return whether all of some lines that are not empty end with a tab and a whole number.

    >>> has_counts(["Berlin\t3426354", "Bern\t121631", "", "Bergen\t213585"]), has_counts(["a\t1", "b"])
    (True, False)
    """
    sampled = [line for line in map(str.rstrip, lines) if line]
    return len(sampled) >= _MIN_LINES and all(map(_COUNTED.fullmatch, sampled))


class LineColumns:
    """The columns of a corpus. `text` is the first; a tab in the text is allowed."""

    def __init__(self, names: Sequence[Column] | None) -> None:
        """Have these columns; None: a count if `has_counts` of the first lines, else only the text."""
        self._names = names

    def records(self, pieces: Iterable[str]) -> Iterator[Record]:
        """Yield the lines of a text that have one; `pieces` are not of whole lines.

        Raises:
            InvalidInput: a line lacks a column, or its count is no whole number (code `malformed_columns`).
        """
        names, groups = self._named(pieces)
        for number, line in enumerate(chain.from_iterable(groups), 1):
            record = _parsed(line, names, number)
            if record.text:
                yield record

    def texts(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the text without the other columns, in pieces of whole lines. Raises as `records`."""
        names, groups = self._named(pieces)
        first = 1
        for lines in groups:
            if len(names) == 1:
                yield "\n".join(lines) + "\n"
            else:
                yield "".join(f"{_parsed(line, names, n).text}\n" for n, line in enumerate(lines, first))
            first += len(lines)

    def _named(self, pieces: Iterable[str]) -> tuple[Sequence[Column], Iterator[list[str]]]:
        groups = _grouped(pieces)
        if self._names is not None:
            return self._names, groups
        begun: list[list[str]] = []
        for lines in groups:
            begun.append(lines)
            if sum(map(len, begun)) >= SAMPLED_LINES:
                break
        found = has_counts(islice(chain.from_iterable(begun), SAMPLED_LINES))
        return ("text", "count") if found else ("text",), chain(begun, groups)


def _grouped(pieces: Iterable[str]) -> Iterator[list[str]]:
    for piece in whole_lines(pieces, max_held=_MAX_HELD):
        if piece:
            yield piece.removesuffix("\n").split("\n")


def _parsed(line: str, names: Sequence[Column], number: int) -> Record:
    if len(names) == 1 or not line.strip():
        return Record(line.strip())
    text, *others = line.rstrip("\r").rsplit("\t", len(names) - 1)
    values = dict(zip(names[1:], others, strict=False))
    count = values.get("count", "1").strip()
    if len(values) < len(names) - 1 or not (count.isascii() and count.isdecimal() and len(count) <= 15):
        raise InvalidInput(
            f"line {number:,} of the corpus is not {', then a tab and '.join(f'a {name}' for name in names)};"
            ' correct it, or say which columns there are with "suggestions": {"columns": ["text"]}',
            code="malformed_columns",
            param="suggestions.columns",
        )
    return Record(text.strip(), int(count), values.get("source"))
