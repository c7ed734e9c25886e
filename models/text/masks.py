r"""Parts of a text that say nothing by their value, replaced by one character each before it is read.

A mask is a name from NAMED, or a regular expression of one's own. Where several match, the one that begins
first wins, then the one that is named first. The same masks are applied to the corpus when a model is
trained and to each line it scores; a masked line remembers where its characters came from.

Expressions are run by RE2, in time that grows with the length of the text alone, whatever the expression;
look-around and back-references do not exist there. A match never spans lines and is never empty.

>>> masked = Masks(["numbers"]).apply("port 40454 ssh2")
>>> masked.text, masked.origin(6)
('port ⓝ ssh2', 10)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import re2
from numpy.typing import NDArray

from models.errors import InvalidInput

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_CLOCK = r"\d{1,2}:\d{2}:\d{2}(?:[.,:]\d+)?(?: ?[AP]M\b)?"

NAMED: dict[str, tuple[str, str]] = {
    "timestamp": (
        "ⓣ",
        (
            r"\b\d{4}[-./]\d{2}[-./]\d{2}"
            r"(?:[T ._-]\d{2}[:.]\d{2}[:.]\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2}\b)?)?"
            r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d{2}:\d{2}:\d{2}\b"
            r"|\b\d{2}:\d{2}:\d{2}(?:[.,]\d+)?\b"
        ),
    ),
    "uuid": ("ⓤ", r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b"),
    "ip": (
        "ⓘ",
        r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b|\b[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}:[0-9A-Fa-f]{1,4}\b",
    ),
    "hex": ("ⓗ", r"\b0[xX][0-9A-Fa-f]+\b|\b[0-9A-Fa-f]{16,}\b|\b[0-9A-Fa-f]*\d[0-9A-Fa-f]{7,15}\b"),
    "numbers": ("ⓝ", r"\b\d+\b"),
    "date": (
        "ⓓ",
        (
            rf"\b(?:{_WEEKDAY},? +)?{_MONTH} +\d{{1,2}},?(?: \d{{4}})? {_CLOCK}(?: \d{{4}}\b)?"
            rf"|\b(?:{_WEEKDAY},? +)?\d{{1,2}}[-/ ]{_MONTH}[-/ ]\d{{4}}\b(?:[: ]{_CLOCK})?(?: [+-]\d{{4}}\b)?"
            rf"|\b(?:\d{{4}}/\d{{2}}/\d{{2}}|\d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d{{2}}))\b(?:,? {_CLOCK})?"
            rf"|\b\d{{2}}[-.]\d{{2}} {_CLOCK}|\d{{4,8}}[ T_-]{_CLOCK}"
        ),
    ),
    "long_numbers": ("ⓛ", r"\d{4}\d*"),
    "digits": ("ⓖ", r"\d+"),
}
"""Name -> the character that stands for a match, and what matches.

Models are saved with the names of their masks, so a pattern never changes: what it lacks is a new name.
`numbers` are whole words of digits; `long_numbers` (four digits or more) and `digits` match in words, too.
"""

OWN_CHARACTER = "ⓞ"
"""Stands for a match of an expression of one's own."""

MOST_MASKS = 16
LONGEST_PATTERN = 500
_LONGEST_LINE = 1 << 24  # characters, in a corpus
_MEMORY_BYTES = 2 << 20  # of a compiled expression; RE2 refuses a larger one


@dataclass(frozen=True)
class Masked:
    """A text after masking. `starts` (N + 1,) are the places in the original that its characters come from.

    The last is the original's length. None: nothing was masked.
    """

    text: str
    starts: NDArray[np.intp] | None

    def origin(self, place: int) -> int:
        """Return where in the original the character at `place`, or the end, was."""
        return place if self.starts is None else int(self.starts[place])


class Masks:
    """Masks in the order they are tried.

    Args:
        masks: names from NAMED, or expressions.

    Raises:
        InvalidInput: too many, or an expression that RE2 refuses, is too long, or matches the empty text
            (code `invalid_mask`; the message says which and why).
    """

    def __init__(self, masks: Sequence[str]) -> None:
        if len(masks) > MOST_MASKS:
            raise _refusal(f"there are {len(masks)} masks and there may be {MOST_MASKS}")
        self.masks = tuple(masks)
        self._characters = [NAMED[m][0] if m in NAMED else OWN_CHARACTER for m in masks]
        patterns = [NAMED[m][1] if m in NAMED else _checked(m) for m in masks]
        # Our groups are told from those inside the expressions by their names.
        joined = "|".join(f"(?P<nextchar_{i}>{pattern})" for i, pattern in enumerate(patterns))
        self._pattern = _compile(joined) if masks else None
        self._group_of: dict[int, int] = {}
        if self._pattern:
            index = self._pattern.groupindex
            self._group_of = {index[f"nextchar_{i}"]: i for i in range(len(masks))}

    def __bool__(self) -> bool:
        return self._pattern is not None

    def apply(self, text: str) -> Masked:
        """Return a text with each match, within one of its lines, replaced by one character."""
        found = list(self.matches(text))
        if not found:
            return Masked(text, None)
        pieces, starts, at = [], [], 0
        for start, end, mask in found:
            pieces += [text[at:start], self._characters[mask]]
            starts.append(np.arange(at, start + 1))
            at = end
        pieces.append(text[at:])
        starts.append(np.arange(at, len(text) + 1))
        return Masked("".join(pieces), np.concatenate(starts))

    def apply_to_pieces(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield a text that comes in pieces with each of its lines masked by itself, in larger pieces."""
        held = ""
        for piece in pieces:
            head, newline, held_next = piece.rpartition("\n")
            if not newline and len(held) + len(piece) < _LONGEST_LINE:
                held += piece
                continue
            if not newline:  # nobody's line; it is cut so that memory does not grow
                head, held_next = piece, ""
            yield "\n".join(self.apply(line).text for line in (held + head).split("\n")) + newline
            held = held_next
        yield self.apply(held).text

    def matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, index of the mask) of each match in a text, in order."""
        if self._pattern is None:
            return
        base = 0
        for line in text.split("\n"):
            for match in self._pattern.finditer(line):
                start, end = match.span()
                if start < end:
                    group = next(g for g in self._group_of if match.start(g) >= 0)
                    yield base + start, base + end, self._group_of[group]
            base += len(line) + 1


def _checked(pattern: str) -> str:
    if len(pattern) > LONGEST_PATTERN:
        raise _refusal(f"an expression has {len(pattern)} characters and may have {LONGEST_PATTERN}")
    if _compile(pattern).match("") is not None:
        raise _refusal(f"the expression {pattern!r} matches the empty text")
    return pattern


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        names = ", ".join(NAMED)
        raise _refusal(f"{pattern[:80]!r} is no mask: {why}; use {names} or an RE2 expression") from None


def _refusal(message: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_mask", param="masks")
