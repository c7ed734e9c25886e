"""Detects whether a text is a log, and suggests masks for its lines.

A text is a log if most of its lines have a timestamp, or a number that increases from line to line. Masks are
suggested for timestamps, and for other classes of values whose later values are new: such values drift
(process ids, counters, addresses of new clients), and to a model trained on them every later line would be
anomalous. Recurring values such as status codes carry information and are not masked. The decision is made
from a bounded sample of the lines.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from models.text.masks import Masks

CLASSES = (
    "timestamp",
    "date",
    "loose_time",
    "uuid",
    "ip",
    "hostname",
    "hex",
    "alphanumeric",
    "long_numbers",
    "digits",
)
"""The masks that can be suggested, in order of precedence."""

_MIN_LINES = 50
_TIMESTAMPS = ("timestamp", "date")
_MIN_TIMESTAMPED = 0.5  # fraction of a log's lines; stack traces and wrapped lines have no timestamp
_MIN_COUNTED = 0.8  # fraction of the lines with a number at the same position
_MIN_RISING = 0.1  # fraction of these numbers above the one before: many lines share a second
_MAX_FALLING = 0.1  # falling steps per rising one: threads write out of order
_COUNTER_POSITIONS = 4  # numbers per line that are examined

_MIN_DRIFT = 0.1  # fraction of new values in later lines, in excess of chance
_MIN_UNIQUE = 0.5  # fraction of values that occur in no other line: ids
_MIN_VALUES = 20
_MIN_EARLIER = 5  # earlier values of a field, below which a later one does not count as new

_BLOCK_LINES = 16  # adjacent lines that are sampled together
_MAX_BLOCKS = 96
_MAX_LINE_CHARACTERS = 2000  # of a sampled line; the rest is cut off


@dataclass(frozen=True)
class LogDetection:
    """The kind of a text, and the masks suggested for it, from a sample of `sampled_lines` lines.

    Attributes:
        lines: the number of sampled lines that each suggested mask matches, in the order of CLASSES.
        example: one of the lines.
        matches: spans in `example` that each of CLASSES matches when applied alone.
        kept: fraction of the sample's characters left after the suggested masks are applied.
        is_chronological: whether most lines have a timestamp, or a number that increases from line to line.
    """

    kind: Literal["log", "text"]
    sampled_lines: int
    lines: dict[str, int] = field(default_factory=dict)
    example: str = ""
    matches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    kept: float = 1.0
    is_chronological: bool = False

    @property
    def masks(self) -> tuple[str, ...]:
        """The suggested masks."""
        return tuple(self.lines)


class LineSample:
    """Samples evenly spaced blocks of lines from a stream of text of unknown length."""

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []
        self._stride = 1  # one block in so many is kept
        self._line_number = 0
        self._held = ""  # the start of an incomplete line

    def feed(self, text: str) -> None:
        """Add the next piece of the text."""
        first, *rest = text.split("\n")
        self._held += first[: _MAX_LINE_CHARACTERS - len(self._held)]
        if rest:
            self._add([self._held, *rest[:-1]])
            self._held = rest[-1][:_MAX_LINE_CHARACTERS]

    def lines(self) -> list[str]:
        """Return the sampled lines in order, without empty ones."""
        last = [self._held] if self._is_sampled() else []
        return [line for block in [*self._blocks, last] for line in block if line.strip()]

    def empty_fraction(self) -> float:
        """Return the fraction of the sampled lines that are empty."""
        lines = [line for block in self._blocks for line in block]
        return sum(not line.strip() for line in lines) / max(1, len(lines))

    def _is_sampled(self) -> bool:
        return self._line_number // _BLOCK_LINES % self._stride == 0

    def _add(self, lines: Sequence[str]) -> None:
        start = 0
        while start < len(lines):
            block, offset = divmod(self._line_number, _BLOCK_LINES)
            count = _BLOCK_LINES - offset
            if self._is_sampled():
                if offset == 0:
                    self._begin_block()
                self._blocks[-1] += [line[:_MAX_LINE_CHARACTERS] for line in lines[start : start + count]]
            else:
                count += (self._stride - 1 - block % self._stride) * _BLOCK_LINES
            count = min(count, len(lines) - start)
            start += count
            self._line_number += count

    def _begin_block(self) -> None:
        if len(self._blocks) == _MAX_BLOCKS:
            self._blocks = self._blocks[::2]
            self._stride *= 2
        self._blocks.append([])


@dataclass(frozen=True)
class _Value:
    """A match of one of CLASSES; equal `field`s are the same field of the same kind of line."""

    line: int
    mask: str
    field: str
    text: str


def detect_log(lines: Sequence[str]) -> LogDetection:
    """Return whether the text that these lines are sampled from, in order, is a log, and masks for it."""
    values = [value for number, line in enumerate(lines) for value in _values(number, line, _OTHERS)]
    timestamped = len({v.line for v in values if v.mask in _TIMESTAMPS})
    is_timestamped = bool(lines) and timestamped >= _MIN_TIMESTAMPED * len(lines)
    if not is_timestamped and not _has_counter(values, len(lines)):
        return LogDetection("text", len(lines))
    suggested = Masks(_suggested(lines, values))
    if not suggested or len(lines) < _MIN_LINES:
        return LogDetection("text", len(lines), is_chronological=True)
    matched_lines = dict.fromkeys(suggested.masks, 0)
    for line in lines:
        for mask in {mask for _, _, mask in suggested.matches(line)}:
            matched_lines[suggested.masks[mask]] += 1
    example = max(lines[: 4 * _BLOCK_LINES], key=lambda line: len({m for *_, m in suggested.matches(line)}))
    matches = {m: [(start, end) for start, end, _ in Masks([m]).matches(example)] for m in CLASSES}
    kept = sum(len(suggested.apply(line).text) for line in lines) / sum(map(len, lines))
    return LogDetection(
        "log",
        len(lines),
        matched_lines,
        example,
        {m: spans for m, spans in matches.items() if spans},
        kept,
        is_chronological=True,
    )


_ADDED = ("loose_time", "hostname", "alphanumeric")
"""Classes that are suggested in addition to the others, which are judged as if these did not exist: words
with numbers in them would hide that the numbers in other places drift."""

_SPLIT_BY = {"long_numbers": {"uuid", "hex"}, "digits": {"uuid", "hex", "ip"}}
"""By a mask of numbers, the classes whose values it would mask in part: it leaves the letters of a hash."""

_OTHERS, _ALL = Masks([name for name in CLASSES if name not in _ADDED]), Masks(CLASSES)


def _suggested(lines: Sequence[str], values: Sequence[_Value]) -> list[str]:
    """Return the suggested masks in the order of CLASSES; `values` are those without _ADDED."""
    all_values = [value for number, line in enumerate(lines) for value in _values(number, line, _ALL)]
    suggested = {m for m in CLASSES if _is_suggested(m, all_values if m in _ADDED else values, len(lines))}
    split = {name for numbers in suggested for name in _SPLIT_BY.get(numbers, ())}
    suggested |= {value.mask for value in values if value.mask in split}
    return [m for m in CLASSES if m in suggested]


def _values(number: int, line: str, masks: Masks) -> list[_Value]:
    return [
        _Value(number, value.mask, f"{value.mask} {value.before}", value.text)
        for _, value in masks.values(line)
    ]


def _has_counter(values: Sequence[_Value], lines: int) -> bool:
    """Return whether, for some i, the i-th number of most lines increases through the text."""
    by_line: dict[int, list[str]] = defaultdict(list)
    for value in values:
        if value.text.isdecimal():
            by_line[value.line].append(value.text)
    for i in range(_COUNTER_POSITIONS):
        numbers = [int(texts[i][:18]) for _, texts in sorted(by_line.items()) if len(texts) > i]
        if len(numbers) < max(2, _MIN_COUNTED * lines):
            continue
        steps = [after - before for before, after in pairwise(numbers)]
        rising, falling = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
        if rising >= _MIN_RISING * len(steps) and falling <= _MAX_FALLING * rising:
            return True
    return False


def _is_suggested(mask: str, values: Sequence[_Value], lines: int) -> bool:
    """Return whether a class is the lines' timestamp, or its values drift."""
    of_class = [value for value in values if value.mask == mask]
    if mask in _TIMESTAMPS and len({v.line for v in of_class}) >= _MIN_TIMESTAMPED * lines:
        return True
    return _drifts(of_class, lines)


def _drifts(values: Sequence[_Value], lines: int) -> bool:
    """Return whether values of one class change with time, or hardly ever recur.

    The fraction of new values in the later half of the lines is compared with that between two random halves.
    The latter is chance, as for durations, which the calibration of anomaly scores accounts for.
    """
    shuffled = random.Random(0).sample(range(lines), lines)
    later = _new_fraction(values, lambda line: 2 * line < lines)
    by_chance = _new_fraction(values, lambda line: 2 * shuffled[line] < lines)
    if later is None or by_chance is None:
        return False
    is_id = values[0].mask != "digits" and by_chance >= _MIN_UNIQUE
    return is_id or later - by_chance >= _MIN_DRIFT


def _new_fraction(values: Sequence[_Value], is_earlier: Callable[[int], bool]) -> float | None:
    """Return the fraction of later values that are new in their field; None if there are too few values."""
    earlier: dict[str, list[str]] = defaultdict(list)
    for value in values:
        if is_earlier(value.line):
            earlier[value.field].append(value.text)
    known = {field: set(texts) for field, texts in earlier.items() if len(texts) >= _MIN_EARLIER}
    later = [value for value in values if not is_earlier(value.line) and value.field in known]
    if len(later) < _MIN_VALUES:
        return None
    return sum(value.text not in known[value.field] for value in later) / len(later)
