r"""Masks: variable parts of a text, such as timestamps, replaced by one placeholder character each.

A mask is a name from NAMED or a custom regular expression. Of overlapping matches the leftmost wins, then the
mask that is listed first. The same masks are applied to the corpus of a model and to each line it scores; a
masked line maps its characters back to the original.

Expressions run in RE2, where one search takes time linear in the length of the text; RE2 has no look-around
and no back-references. A match never spans lines and is never empty.

Each of the many searches in a line can read it to its end, as those of `x(?:.*y)?` do in a line of x. So a
line of more than MAX_PIECE_CHARACTERS is masked in pieces, and after _WHOLE_SEARCHES searches in a piece, an
expression of the user sees _WINDOW_BYTES from where a search begins, of which the match begins in the first
half. This changes no line of fewer bytes, and no match of fewer than half as many.

>>> masked = Masks(["numbers"]).apply("port 40454 ssh2")
>>> masked.text, masked.origin(6)
('port ⓝ ssh2', 10)
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import re2
from numpy.typing import NDArray

from nextchar.models.errors import InvalidInput
from nextchar.models.text.lines import whole_lines

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"  # of a hostname
_TOP_LABEL = "(?:[a-z]{2}|(?i:com|net|org|edu|gov|mil|info|biz|arpa|local|localdomain|internal|lan))"
_CLOCK = r"\d{1,2}:\d{2}:\d{2}(?:[.,:]\d+)?(?: ?[AP]M\b)?"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_NAMED_DATES = (
    rf"\b(?:{_WEEKDAY},? +)?{_MONTH} +\d{{1,2}},?(?: \d{{4}})? {_CLOCK}(?: \d{{4}}\b)?"
    rf"|\b(?:{_WEEKDAY},? +)?\d{{1,2}}[-/ ]{_MONTH}[-/ ]\d{{4}}\b(?:[: ]{_CLOCK})?(?: [+-]\d{{4}}\b)?"
)
_DATED_CLOCKS = rf"|\b\d{{2}}[-.]\d{{2}} {_CLOCK}|\d{{4,8}}[ T_-]{_CLOCK}"

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
            _NAMED_DATES
            + rf"|\b(?:\d{{4}}/\d{{2}}/\d{{2}}|\d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d{{2}}))\b(?:,? {_CLOCK})?"
            + _DATED_CLOCKS
        ),
    ),
    "long_numbers": ("ⓛ", r"\d{4}\d*"),
    "digits": ("ⓖ", r"\d+"),
    "loose_time": ("ⓒ", r"\b(?:\d{8}[ T_-])?\d{1,2}:\d{1,2}:\d{1,2}(?:[.,:]\d+)?\b"),
    "hostname": ("ⓢ", rf"\b{_LABEL}(?:\.{_LABEL})+\.{_TOP_LABEL}\b"),
    "alphanumeric": ("ⓐ", r"\b\w*(?:[A-Za-z]\d+[A-Za-z]|\d[A-Za-z]+\d)\w*\b"),
    "local_date": (
        "ⓩ",
        (
            r"(?i)\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|janv|févr|mars|avr|juin|juil"
            r"|août|sept|déc|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|fev|out|mrt|mei)\.? +"
            r"(?:0?[1-9]|[12]\d|3[01]) (?:[01]\d|2[0-3])(?::[0-5]\d){2}(?:[.,]\d+)?\b"
        ),
    ),
    "compact_time": (
        "ⓚ",
        (
            r"\b(?:20)?\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[ T_-](?:[01]\d|2[0-3])(?:[0-5]\d){2}"
            r"(?:[.,]\d+)?Z?\b"
        ),
    ),
    "padded_time": (
        "ⓟ",
        r"\b\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]) (?:[01]\d|2[0-3]| \d)(?::[0-5]\d){2}\b",
    ),
    "elapsed": ("ⓥ", r"^[ \[(]*\d{1,4}:[0-5]\d[ \])]"),
    "uptime": ("ⓔ", r"\[ *\d+(?:\.\d{2,9}s?|,\d{2,9}s)\]"),
    "calendar_date": (
        "ⓨ",
        (
            _NAMED_DATES + rf"|\b(?:\d{{4}}/\d{{2}}/\d{{2}}|{_DAY}/{_DAY}/(?:19|20)\d{{2}})\b(?:,? {_CLOCK})?"
            rf"|\b\d{{2}}/\d{{2}}/\d{{2}},? {_CLOCK}" + _DATED_CLOCKS
        ),
    ),
    "mac": ("ⓜ", r"\b[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5,}|(?:-[0-9A-Fa-f]{2}){5,})\b"),
}
"""Name -> (placeholder, pattern).

Saved models refer to masks by name, so a pattern never changes; an improved one gets a new name.
`numbers` are whole words of digits; `long_numbers` (four digits or more) and `digits` also match in words.
`loose_time` is a time whose minutes or seconds may have one digit, `hostname` has three labels or more, and
`alphanumeric` is a word that changes twice between letters and digits, as random ids do. `local_date` has a
month in any case or in another language; `compact_time` is a date and a time of digits only, such as
`081109 203615`; `padded_time` is that of MySQL, in which two spaces are before an hour of one digit;
`elapsed` is minutes and seconds at the beginning of a line, as game servers write them; `calendar_date` is
`date` without numbers such as the durations `0/71/80`; `uptime` is the time since the start in brackets, as
of the Linux kernel and the JVM; `mac` is a hardware address, or several joined by colons, as of firewalls.
"""

_LONG_NUMBERS = "long_numbers"

CUSTOM_PLACEHOLDER = "ⓞ"
"""The placeholder of custom expressions."""

PLACEHOLDERS = frozenset({CUSTOM_PLACEHOLDER, *(placeholder for placeholder, _ in NAMED.values())})
"""All placeholders."""

FIELD_CHARACTERS = 6
"""Characters before a value that tell which field it is in; `#` stands for each value among them."""

MAX_PIECE_CHARACTERS = 50_000
"""Maximum length of what is masked at once; of a stream, longer lines are truncated to as many characters."""

_WHOLE_SEARCHES = 256  # in a piece of a line
_WINDOW_BYTES = 2048

MAX_MASKS = 16
MAX_PATTERN_CHARACTERS = 500
_WORST_CHARACTERS = 2000
_MAX_WORST_S = 0.1  # of the processor: quadratic time takes a twentieth of it
_MAX_LINE_CHARACTERS = 1 << 24  # in a corpus
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # an invalid byte in a string; RE2 searches UTF-8


@dataclass(frozen=True)
class Masked:
    """A masked text of N characters.

    `starts` (N + 1,) are the positions of its characters in the original, and the original's length; None if
    nothing was masked.
    """

    text: str
    starts: NDArray[np.intp] | None

    def origin(self, position: int) -> int:
        """Return the position in the original of the character at `position`, or of the end."""
        return position if self.starts is None else int(self.starts[position])


@dataclass(frozen=True, slots=True)
class Value:
    """What a mask matches in a line.

    Attributes:
        mask: the mask. text: the match. before: the FIELD_CHARACTERS before it, or fewer. after: the
        character after it; empty at the end of the text.
        is_short: whether it is a number of fewer digits than `long_numbers` matches.
    """

    mask: str
    text: str
    before: str
    after: str
    is_short: bool = False


class Masks:
    """Compiled masks.

    Args:
        masks: names from NAMED or expressions, in order of precedence.
        check: called for each line, each piece of a long one, and each search for an expression of the user;
            may raise an exception.

    Raises:
        InvalidInput: there are too many, or an expression is invalid in RE2, too long, or matches the empty
            text (code `invalid_mask`).
    """

    def __init__(self, masks: Sequence[str], *, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        if len(masks) > MAX_MASKS:
            raise _invalid_mask(f"there are {len(masks)} masks; the maximum is {MAX_MASKS}")
        self.masks = tuple(masks)
        self._placeholders = [NAMED[m][0] if m in NAMED else CUSTOM_PLACEHOLDER for m in masks]
        patterns = [NAMED[m][1] if m in NAMED else _checked(m) for m in masks]
        # Named groups, because the expressions may have groups of their own.
        joined = "|".join(f"(?P<nextchar_{i}>{pattern})" for i, pattern in enumerate(patterns))
        self._pattern = _compile(joined) if masks else None
        self._long_numbers = self.masks.index(_LONG_NUMBERS) if _LONG_NUMBERS in masks else 0
        with_short = joined + r"|\d+" if _LONG_NUMBERS in masks else joined
        self._pattern_with_short = _compile(with_short) if masks else None
        has_utf8 = bool(masks) and r"\C" not in joined
        self._utf8_pattern = _compile(joined.encode()) if has_utf8 else None
        self._utf8_pattern_with_short = _compile(with_short.encode()) if has_utf8 else None
        self._is_named = all(mask in NAMED for mask in masks)  # which read little beyond their matches
        self._group_of: dict[int, int] = {}
        if self._pattern:
            index = self._pattern.groupindex
            self._group_of = {index[f"nextchar_{i}"]: i for i in range(len(masks))}

    def __bool__(self) -> bool:
        return self._pattern is not None

    def apply(
        self, text: str, *, is_masked: Callable[[Value], bool] | None = None, short_numbers: bool = False
    ) -> Masked:
        """Return a text with each match replaced by its placeholder, if `is_masked` is true for it.

        `short_numbers`: see `values`. Needs `is_masked`, which is asked about them, too.
        """
        if is_masked:
            found = self.values(text, short_numbers=short_numbers)
            matches = [match for match, value in found if is_masked(value)]
        else:
            matches = list(self.matches(text))
        if not matches:
            return Masked(text, None)
        pieces, starts, at = [], [], 0
        for start, end, mask in matches:
            pieces += [text[at:start], self._placeholders[mask]]
            starts.append(np.arange(at, start + 1))
            at = end
        pieces.append(text[at:])
        starts.append(np.arange(at, len(text) + 1))
        return Masked("".join(pieces), np.concatenate(starts))

    def apply_to_pieces(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the masked text of `pieces`, a text in pieces of any length, in pieces of whole lines."""
        return map(self.replace, whole_lines(pieces, max_held=_MAX_LINE_CHARACTERS))

    def replace(self, text: str) -> str:
        """Return `apply(text).text`, without the positions and several times as fast."""
        if self._pattern is None:
            return text
        if self._utf8_pattern is None:  # an expression matches parts of characters
            return "\n".join(self.apply(line).text for line in text.split("\n"))
        placeholders = [placeholder.encode() for placeholder in self._placeholders]
        parts: list[bytes] = []
        for line in text.encode("utf-8", "surrogatepass").split(b"\n"):
            for piece in _divide_bytes(line):
                self._check()
                at = 0
                for start, end, mask in self._found_in_bytes(piece, self._utf8_pattern):
                    parts += (piece[at:start], placeholders[mask])
                    at = end
                parts.append(piece[at:])
            parts.append(b"\n")
        return b"".join(parts[:-1]).decode("utf-8", "surrogatepass")

    def values(
        self, text: str, *, short_numbers: bool = False
    ) -> Iterator[tuple[tuple[int, int, int], Value]]:
        """Yield each match, as `matches` does, and its value.

        With `short_numbers`, if `long_numbers` is one of the masks, also numbers that have too few digits for
        it: a counter that restarts is the same field.
        """
        before, position = "", 0
        for match, is_short in self._found(text, with_short=short_numbers):
            start, end, mask = match
            before = (before + text[max(position, start - FIELD_CHARACTERS) : start])[-FIELD_CHARACTERS:]
            before = before.rpartition("\n")[2]
            yield match, Value(self.masks[mask], text[start:end], before, text[end : end + 1], is_short)
            before, position = before + "#", end

    def matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, index of the mask) of each match in a text, in order."""
        return (match for match, _ in self._found(text))

    def _found(self, text: str, *, with_short: bool = False) -> Iterator[tuple[tuple[int, int, int], bool]]:
        pattern = self._pattern_with_short if with_short else self._pattern
        if pattern is None:
            return
        utf8_pattern = self._utf8_pattern_with_short if with_short else self._utf8_pattern
        base = 0
        for line in text.split("\n"):
            for piece in _divide(line):
                self._check()
                if utf8_pattern is None:
                    found = self._found_in_text(piece, pattern)
                elif piece.isascii():  # its bytes have its characters' positions
                    found = self._found_in_bytes(piece.encode(), utf8_pattern)
                else:
                    found = self._found_in_utf8(piece, utf8_pattern)
                for start, end, mask in found:
                    is_short = mask < 0
                    yield (base + start, base + end, self._long_numbers if is_short else mask), is_short
                base += len(piece)
            base += 1

    def _found_in_text(self, line: str, pattern: Any) -> Iterator[tuple[int, int, int]]:
        """Yield the matches that are not empty; the mask is -1 for a short number."""
        for match in pattern.finditer(_LONE_SURROGATE.sub("\ufffd", line)):
            start, end = match.span()
            if start < end:
                yield start, end, self._group_of.get(match.lastindex, -1)

    def _found_in_utf8(self, line: str, pattern: Any) -> Iterator[tuple[int, int, int]]:
        """Yield what `_found_in_bytes` finds, in characters."""
        data = _LONE_SURROGATE.sub("\ufffd", line).encode()
        at_byte = at = 0
        for start_byte, end_byte, mask in self._found_in_bytes(data, pattern):
            start = at + len(data[at_byte:start_byte].decode())
            at_byte, at = end_byte, start + len(data[start_byte:end_byte].decode())
            yield start, at, mask

    def _found_in_bytes(self, line: bytes, pattern: Any) -> Iterator[tuple[int, int, int]]:
        """Yield what `_found_in_text` yields, in bytes: `finditer` takes several times as long."""
        position, length, whole_searches = 0, len(line), 0
        while position < length:
            end, last_start = length, length  # of what the search sees, and of where its match may begin
            if whole_searches < _WHOLE_SEARCHES or self._is_named:
                whole_searches += 1
            elif length - position > _WINDOW_BYTES:
                end, last_start = position + _WINDOW_BYTES, position + _WINDOW_BYTES // 2
            if not self._is_named:
                self._check()
            found = pattern.search(line, position, end)
            start, stop = found.span() if found else (-1, -1)
            if end < length and (start < 0 or start > last_start):
                position = last_start
            elif start < 0:
                return
            elif start < stop:
                yield start, stop, self._group_of.get(found.lastindex, -1)  # the outermost group
                position = stop
            else:  # an empty match
                position = start + 1


class ModelMasks:
    """The masks of a model, which leave values that are malformed as they are. Thread-safe."""

    def __init__(
        self, masks: Masks, *, is_masked: Callable[[Value], bool] | None = None, short_numbers: bool = False
    ) -> None:
        """Mask by `masks` what `is_masked` is true for; see `Masks.apply`."""
        self.masks, self._is_masked, self._short_numbers = masks, is_masked, short_numbers

    def __bool__(self) -> bool:
        return bool(self.masks)

    def mask(self, line: str) -> Masked:
        """Return a line with its values masked."""
        return self.masks.apply(line, is_masked=self._is_masked, short_numbers=self._short_numbers)

    def mask_lines(self, text: str, *, check: Callable[[], None] = lambda: None) -> str:
        """Return a text of any number of lines with the values of each masked; `check` is called between."""
        masked: list[str] = []
        for piece in pieces(text):
            check()
            masked.append(self.masks.replace(piece) if self._is_masked is None else self.mask(piece).text)
        return "".join(masked)


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of at most MAX_PIECE_CHARACTERS, which when masked make the masked text."""
    start = 0
    while len(text) - start > MAX_PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + MAX_PIECE_CHARACTERS) + 1
        if not end:  # within a longer line
            newline = text.find("\n", start)
            end = newline if newline >= 0 else len(text)
            yield from _divide(text[start:end])
        else:
            yield text[start:end]
        start = end
    yield text[start:]


def check_speed(masks: Sequence[str]) -> None:
    """Raise InvalidInput if an expression takes very long on the worst of the lines that are tried.

    These repeat a character of the expression, or one of a class that it may have.
    """
    for mask in masks:
        if mask not in NAMED:
            for character in sorted({*mask, *"a0 ."} - {"\n"}):
                _check_line(mask, character * _WORST_CHARACTERS)


def _check_line(mask: str, line: str) -> None:
    deadline_s = time.thread_time() + _MAX_WORST_S

    def check() -> None:
        if time.thread_time() > deadline_s:
            raise _invalid_mask(
                f"the expression {mask[:80]!r} takes too long, for example on a line of {line[0]!r};"
                " use fewer repetitions within repetitions"
            )

    Masks([mask], check=check).replace(line)
    check()


def _divide(line: str) -> Iterator[str]:
    """Yield a line in pieces, where possible divided at spaces, so that few values are."""
    start = 0
    while len(line) - start > MAX_PIECE_CHARACTERS:
        middle, end = start + MAX_PIECE_CHARACTERS // 2, start + MAX_PIECE_CHARACTERS
        end = line.rfind(" ", middle, end) + 1 or end
        yield line[start:end]
        start = end
    yield line[start:]


def _divide_bytes(line: bytes) -> Iterable[bytes]:
    if len(line) <= MAX_PIECE_CHARACTERS:
        return (line,)
    return (
        piece.encode("utf-8", "surrogatepass") for piece in _divide(line.decode("utf-8", "surrogatepass"))
    )


def _checked(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise _invalid_mask(
            f"an expression has {len(pattern)} characters; the maximum is {MAX_PATTERN_CHARACTERS}"
        )
    if _compile(pattern).match("") is not None:
        raise _invalid_mask(f"the expression {pattern!r} matches the empty text")
    return pattern


def _compile(pattern: str | bytes) -> Any:
    use = f"{', '.join(NAMED)} or an RE2 expression"
    return compile_pattern(pattern, code="invalid_mask", param="masks", what="a mask", use=use)


def _invalid_mask(message: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_mask", param="masks")


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
