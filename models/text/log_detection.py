"""Detects whether a text is a log, and suggests masks for its lines.

A text is a log if it has a clock (`nextchar.models.text.log_clock`): most of its lines have a timestamp, or a
number that increases from line to line; or events have several lines, of which one has it. Masks are
suggested for timestamps, for long numbers that increase, and for other classes of values whose later values
are new: such values drift (process ids, counters, addresses of new clients), and to a model trained on them
every later line would be anomalous. Recurring values such as status codes carry information and are not
masked. The decision is made from a bounded sample of the lines.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from nextchar.models.text.log_clock import TIMES, LogClock, find_clock, rises
from nextchar.models.text.masks import Masks

CLASSES = (
    "compact_time",
    "uptime",
    "mac",
    "timestamp",
    "date",
    "local_date",
    "loose_time",
    "elapsed",
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
_TIMESTAMPS = ("timestamp", "date", "local_date", "compact_time", "uptime", "elapsed")
_MIN_DRIFT = 0.1  # fraction of new values in later lines, in excess of chance
_MIN_UNIQUE = 0.5  # fraction of values that occur in no other line: ids
_MIN_VALUES = 20
_MIN_COUNTED = 30  # values of a field, from which on it can be a counter
_MAX_NO_DATES = 0.01  # of the values of `date`
_MIN_PADDED = 0.5  # of the values of `date`
_CALENDAR, _PADDED = Masks(["calendar_date"]), Masks(["padded_time"])
_COUNTERS = ("hex", "long_numbers")
_MIN_EARLIER = 5  # earlier values of a field, below which a later one does not count as new

_BLOCK_LINES = 16  # adjacent lines that are sampled together
_MAX_BLOCKS = 96
_MAX_LINE_CHARACTERS = 2000  # of a sampled line; the rest is cut off
_MAX_VALUES = 40  # per line


@dataclass(frozen=True)
class LogDetection:
    """The kind of a text, and the masks suggested for it, from a sample of `sampled_lines` lines.

    Attributes:
        lines: the number of sampled lines that each suggested mask matches, in the order of CLASSES.
        example: one of the lines.
        matches: spans in `example` that each of CLASSES matches when applied alone.
        kept: fraction of the sample's characters left after the suggested masks are applied.
        clock: what shows that the lines are in order of time; None: nothing does.
    """

    kind: Literal["log", "text"]
    sampled_lines: int
    lines: dict[str, int] = field(default_factory=dict)
    example: str = ""
    matches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    kept: float = 1.0
    clock: LogClock | None = None

    @property
    def masks(self) -> tuple[str, ...]:
        """The suggested masks."""
        return tuple(self.lines)


class LineSample:
    """Samples evenly spaced blocks of lines from a stream of text of unknown length."""

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []
        self._stride = 1  # one block in this many is kept
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
    examined = [_beginning(line) for line in lines]
    values = [value for number, line in enumerate(examined) for value in _values(number, line, _OTHERS)]
    timestamped = {mask: {v.line for v in values if v.mask == mask} for mask in _TIMESTAMPS}
    clock = find_clock(lines, timestamped)
    lines = examined
    if clock is None:
        return LogDetection("text", len(lines))
    suggested = Masks(_with_variants(_suggested(lines, values, clock), values))
    if not suggested or len(lines) < _MIN_LINES:
        return LogDetection("text", len(lines), clock=clock)
    matched_lines = dict.fromkeys(suggested.masks, 0)
    for line in lines:
        for mask in {mask for _, _, mask in suggested.matches(line)}:
            matched_lines[suggested.masks[mask]] += 1
    example = max(lines[: 4 * _BLOCK_LINES], key=lambda line: len({m for *_, m in suggested.matches(line)}))
    shown = dict.fromkeys((*CLASSES, *suggested.masks))
    matches = {m: [(start, end) for start, end, _ in Masks([m]).matches(example)] for m in shown}
    kept = sum(len(suggested.replace(line)) for line in lines) / sum(map(len, lines))
    return LogDetection(
        "log",
        len(lines),
        matched_lines,
        example,
        {m: spans for m, spans in matches.items() if spans},
        kept,
        clock,
    )


_ADDED = ("loose_time", "hostname", "alphanumeric")
"""Classes that are suggested in addition to the others, which are judged as if these did not exist: words
with numbers in them would hide that the numbers in other places drift."""

_SPLIT_BY = {"long_numbers": {"uuid", "hex"}, "digits": {"uuid", "hex", "ip", "mac"}}
"""For each mask of numbers, the classes whose values it would mask in part, such as only the digits of a
hash."""

_OTHERS, _ALL = Masks([name for name in CLASSES if name not in _ADDED]), Masks(CLASSES)


def _suggested(lines: Sequence[str], values: Sequence[_Value], clock: LogClock) -> list[str]:
    """Return the suggested masks in the order of CLASSES; `values` are those without _ADDED."""
    all_values = [value for number, line in enumerate(lines) for value in _values(number, line, _ALL)]
    suggested = {m for m in CLASSES if _drifts(m, all_values if m in _ADDED else values, len(lines))}
    # A number in most lines that increases is no proof of a log by itself: paragraphs and rows are numbered.
    evidence = suggested - clock.masks if clock.is_numbering else suggested
    if not evidence and clock.is_in_most_lines and clock.kind == "counter":
        return []
    suggested |= {m for m in CLASSES if _has_counter(m, values)}
    if not suggested or not clock.masks.isdisjoint({*TIMES, *_TIMESTAMPS}):
        suggested |= clock.masks
    split = {name for numbers in suggested for name in _SPLIT_BY.get(numbers, ())}
    suggested |= {value.mask for value in values if value.mask in split}
    return [m for m in CLASSES if m in suggested]


def _with_variants(suggested: Sequence[str], values: Sequence[_Value]) -> list[str]:
    """Return the masks with `calendar_date` for `date` if that matches numbers that are no dates.

    If most dates are also those of `padded_time`, it comes before: at night `date` does not match them.
    """
    dates = [value.text for value in values if value.mask == "date"]
    padded = sum(len(_PADDED.replace(text)) == 1 for text in dates)
    if "date" in suggested and padded > _MIN_PADDED * len(dates):
        suggested = ["padded_time", *suggested]
    others = sum(len(_CALENDAR.replace(text)) > 1 for text in dates)
    is_exact = others <= _MAX_NO_DATES * len(dates)
    return [m if m != "date" or is_exact else "calendar_date" for m in suggested]


def _beginning(line: str) -> str:
    """Return the part of a line with its first values, so that one of many numbers does not take long."""
    after = next(islice(_ALL.matches(line), _MAX_VALUES, None), None)
    return line[: after[0]] if after else line


def _values(number: int, line: str, masks: Masks) -> list[_Value]:
    return [
        _Value(number, value.mask, f"{value.mask} {value.before}", value.text)
        for _, value in masks.values(line)
    ]


def _drifts(mask: str, values: Sequence[_Value], lines: int) -> bool:
    """Return whether the values of a class change with time, or hardly ever recur.

    The fraction of new values in the later half of the lines is compared with that between two random halves.
    The latter is chance, as for durations, which the calibration of anomaly scores accounts for.
    """
    of_class = [value for value in values if value.mask == mask]
    shuffled = random.Random(0).sample(range(lines), lines)
    later = _new_fraction(of_class, lambda line: 2 * line < lines)
    by_chance = _new_fraction(of_class, lambda line: 2 * shuffled[line] < lines)
    if later is None or by_chance is None:
        return False
    is_id = mask != "digits" and by_chance >= _MIN_UNIQUE
    return is_id or later - by_chance >= _MIN_DRIFT


def _has_counter(mask: str, values: Sequence[_Value]) -> bool:
    """Return whether some field of a class is a number that increases through the text, and so drifts.

    The other fields of the class may recur, so that the class as a whole does not drift.
    """
    if mask not in _COUNTERS:
        return False
    fields: dict[str, dict[int, float]] = defaultdict(dict)
    for value in values:
        if value.mask == mask and value.text.isdecimal():
            fields[value.field].setdefault(value.line, float(value.text[:18]))
    return any(len(numbers) >= _MIN_COUNTED and rises(numbers) for numbers in fields.values())


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
