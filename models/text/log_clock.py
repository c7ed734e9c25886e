r"""Finds the clock of a log: the timestamps or the counter that show that its lines are in order of time.

Where each event has one line, most lines have it. Where events have several, as with stack traces, SQL or the
phases of a garbage collection, one line of each event has it, and

- it occurs in all parts of the text, and rises through it;
- the other lines recur once their numbers are taken away, which sets logs apart from subtitles, letters and
  diaries; or the lines that have it do, at the same place; or these begin with date and time of day.

Stack traces may be so long that only a few of the sampled lines have a timestamp.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

from nextchar.models.text.line_time import line_time
from nextchar.models.text.masks import FIELD_CHARACTERS, Masks, Value

TIMES = ("timestamp", "date", "loose_time")
"""Masks of times."""

_MIN_TIMESTAMPED = 0.5  # fraction of the lines, if events have one line
_MIN_COUNTED = 0.8  # fraction of the lines with a number at the same position, likewise
_MIN_OF_FIELD = 0.6  # fraction of the lines with a number after the same characters, likewise
_COUNTER_POSITIONS = 4  # numbers per line that are examined

_MIN_RISING = 0.1  # fraction of the steps that rise: many lines share a second
_MAX_FALLING = 0.1  # falling steps per rising one: threads write out of order
_MAX_FALL = (
    0.5  # sum of the falls per sum of the rises: a restart, but not numbers that begin again and again
)
_MAX_RESTARTS = 0.01  # falling steps per rising one, so few that they may be of any size

_MIN_EQUAL_STEPS = 0.9  # of a numbering; parts of the text that are not sampled lie between other lines

_MIN_HEADS = 0.02  # fraction of the lines that have the clock, if events have several
_PARTS = 8  # of the text, each of which has such lines
_MIN_RECURRING = 0.6  # fraction of the other lines that recur without their numbers
_MIN_FRAMES = 0.2  # fraction of the lines that are frames of stack traces: then _MIN_TRACED times are enough
_MIN_TRACED = 5
_MIN_OF_TIMES = 0.1  # fraction of the times that a mask matches

_MAX_NUMBERS = 40  # per line
_MAX_NUMBER_DIGITS = 18
_LONG_NUMBER_DIGITS = 4
_NUMBER = re.compile(r"\d+(?:\.\d+|,\d{3,})?")  # some locales write a comma
_DIGITS = re.compile(r"\d+")
_LETTER = re.compile(r"[^\W\d_]")
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})")
_EPOCH = re.compile(r"1\d{9}(?:\d{3})?(?:[.,]\d+)?")
_FRAME = re.compile(
    r"\s*(?:at [\w$.<>/@~]+[(\[ ]|File \"[^\"]+\", line \d|#\d+ |from \S+:\d+:in |\S+\.go:\d+ |"
    r"\.\.\. \d+ more)"
)
"""A frame of a stack trace of Java, .NET, JavaScript, Python, PHP, GDB, Ruby or Go."""

_HEAD_CHARACTERS = 120  # of a line, in which its time is
_LEADING_NUMBER = re.compile(r"([\[(<]?) {0,8}\d")
_WORD = re.compile(r"[\w.:/@+-]+")
_SPACES = re.compile(r"\s+")
_ZONE = re.compile(r"\b(?:UTC|GMT|Z|[AP]M|[A-Z]{1,3}S?T)\b")
_MIN_DATED = 0.6  # fraction of the times that have a date

_ELAPSED = "elapsed"  # a mask of times that also transcripts and timetables have
_NOW = 4e9  # Unix seconds, after any time: a year that is not given does not matter
_DAY_S = 86_400
_TIME_MASKS = Masks(TIMES)
_ALL_TIMES = Masks([*TIMES, "local_date", "compact_time", "padded_time", "uptime", _ELAPSED])


@dataclass(frozen=True)
class LogClock:
    """What shows that lines are in order of time.

    Attributes:
        kind: timestamps, or a number that increases.
        masks: those that match it.
        is_in_most_lines: whether most lines have it; otherwise events have several lines.
        is_numbering: whether it grows by the same whole number from line to line, as numbers of rows do.
    """

    kind: Literal["time", "counter"]
    masks: frozenset[str]
    is_in_most_lines: bool
    is_numbering: bool = False

    @property
    def reason(self) -> str:
        """What was found, as a clause."""
        what = "a timestamp" if self.kind == "time" else "a number that increases"
        if self.is_in_most_lines:
            return f"most lines have {what}"
        return f"events have several lines, of which one has {what}"


@dataclass(frozen=True)
class _Number:
    """A number in a line; `before` are the characters before it, in which `#` stands for each number."""

    before: str
    text: str

    @property
    def value(self) -> float:
        return float(self.text[:_MAX_NUMBER_DIGITS].replace(",", "."))

    @property
    def mask(self) -> str:
        is_long = self.text[:_LONG_NUMBER_DIGITS].isdecimal() and len(self.text) >= _LONG_NUMBER_DIGITS
        return "long_numbers" if is_long else "digits"


def find_clock(lines: Sequence[str], timestamped: Mapping[str, set[int]]) -> LogClock | None:
    """Return the clock of a text, or None.

    Args:
        lines: a sample of the text's lines, in order, none of them empty.
        timestamped: the numbers of the lines that masks for times match, by mask.
    """
    if not lines:
        return None
    if (elapsed := timestamped.get(_ELAPSED)) and not _are_recurring(lines):
        timestamped = {mask: own for mask, own in timestamped.items() if own is not elapsed}
    if len(set[int]().union(*timestamped.values())) >= _MIN_TIMESTAMPED * len(lines):
        masks = frozenset(m for m, own in timestamped.items() if len(own) >= _MIN_TIMESTAMPED * len(lines))
        return LogClock("time", masks, is_in_most_lines=True)
    numbers = [_numbers(line) for line in lines]
    return (
        _epoch(numbers) or _counter(numbers) or _time_of_events(lines) or _counter_of_events(lines, numbers)
    )


def time_place(line: str) -> str | None:
    """Return what is before the first time in a line, or before the number that it begins with; else None.

    `x` stands for each run of characters of words there.

    >>> time_place("INFO [main-7] 2023-12-10 06:55:46 up"), time_place("<7> started"), time_place("a line")
    ('x [x] ', '<', None)
    """
    head = line[:_HEAD_CHARACTERS]
    start = next((start for start, _, _ in _ALL_TIMES.matches(head)), None)
    if start is None:
        number = _LEADING_NUMBER.match(head)
        return number[1] if number else None
    return _SPACES.sub(" ", _WORD.sub("x", head[:start]))


def is_stack_frame(line: str) -> bool:
    """Return whether a line is a frame of a stack trace."""
    return _FRAME.match(line) is not None


def _epoch(numbers: Sequence[list[_Number]]) -> LogClock | None:
    """Return a clock if many lines have Unix seconds or milliseconds, later ones at the end of the text."""
    for i in range(_COUNTER_POSITIONS):
        at_i = (own[i] for own in numbers if len(own) > i)
        found = [number for number in at_i if _EPOCH.fullmatch(number.text)]
        if len(found) >= max(3, _MIN_TIMESTAMPED * len(numbers)):
            third = len(found) // 3
            first, last = (sorted(n.value for n in part) for part in (found[:third], found[-third:]))
            if last[third // 2] > first[third // 2]:
                return _counter_clock(dict(enumerate(found)), is_in_most_lines=True)
    return None


def _counter(numbers: Sequence[list[_Number]]) -> LogClock | None:
    """Return a clock if, for some i, the i-th number of most lines increases through the text."""
    for i in range(_COUNTER_POSITIONS):
        found = {n: own[i] for n, own in enumerate(numbers) if len(own) > i}
        if len(found) >= max(2, _MIN_COUNTED * len(numbers)) and rises(_values(found)):
            return _counter_clock(found, is_in_most_lines=True)
    return None


def _time_of_events(lines: Sequence[str]) -> LogClock | None:
    found = {n: next((value for _, value in _TIME_MASKS.values(line)), None) for n, line in enumerate(lines)}
    times = {n: value for n, value in found.items() if value}
    fields: dict[str, dict[int, Value]] = defaultdict(dict)
    for n, value in times.items():
        fields[value.before][n] = value
    by_frequency = sorted(fields.values(), key=len, reverse=True)
    heads = _times_of_heads(lines)
    if heads and rises({n: time // 1 for n, time in _orders(heads).items()}):  # threads mix up milliseconds
        return LogClock("time", frozenset(value.mask for value in heads.values()), is_in_most_lines=False)
    is_traced = _is_traced(lines)
    for of_field in (times, *by_frequency):
        if len(of_field) < min(_MIN_TRACED, _MIN_HEADS * len(lines)):
            break
        orders = _orders(of_field)
        has_traces = of_field is times and is_traced and len(orders) >= _MIN_TRACED and not _falls(orders)
        if has_traces or (_is_in_all_parts(orders, lines) and rises(orders)):
            counts = Counter(of_field[n].mask for n in orders)
            masks = frozenset(mask for mask, n in counts.items() if n >= _MIN_OF_TIMES * len(orders))
            return LogClock("time", masks, is_in_most_lines=False)
    return None


def _times_of_heads(lines: Sequence[str]) -> dict[int, Value]:
    """Return the times of the lines that begin events, by line; {} if it is not clear that they do.

    They are at the same place, before text; and they are the first of their line, with a date, or what the
    lines say apart from numbers recurs.
    """
    places = Counter(place for line in lines if (place := time_place(line)) is not None)
    for place, count in places.most_common(2):
        if place[:1].isspace() or count < _MIN_HEADS * len(lines):
            continue
        heads: dict[int, Value] = {}
        said: list[str] = []
        for n, line in enumerate(lines):
            (_, end, _), value = next(_TIME_MASKS.values(line), ((0, 0, 0), None))
            if value and time_place(line) == place and _LETTER.search(_ZONE.sub("", line[end:])):
                heads[n] = value
                said.append(line[end:])
        if not heads or not _is_in_parts(heads, lines):
            continue
        has_date = sum(line_time(value.text, now=_NOW) is not None for value in heads.values())
        if "x" not in place and has_date >= _MIN_DATED * len(heads):
            return heads
        if _are_recurring(said):
            return heads
    return {}


def _counter_of_events(lines: Sequence[str], numbers: Sequence[list[_Number]]) -> LogClock | None:
    first = {n: own[0] for n, own in enumerate(numbers) if own and _EPOCH.fullmatch(own[0].text)}
    if len(first) >= _MIN_TRACED and _is_traced(lines) and rises(_values(first)):
        return _counter_clock(first, is_in_most_lines=False)
    fields: dict[str, dict[int, _Number]] = defaultdict(dict)
    for n, own in enumerate(numbers):
        for number in own:
            fields[number.before].setdefault(n, number)
    for found in sorted(fields.values(), key=len, reverse=True):
        if len(found) < _MIN_HEADS * len(lines):
            return None
        is_in_most_lines = len(found) >= _MIN_OF_FIELD * len(lines)
        is_epoch = all(_EPOCH.fullmatch(number.text) for number in found.values())
        is_in_parts = (_is_in_parts if is_epoch else _is_in_all_parts)(found, lines)
        if rises(_values(found)) and (is_in_most_lines or is_in_parts):
            return _counter_clock(found, is_in_most_lines=len(found) >= _MIN_TIMESTAMPED * len(lines))
    return None


def _counter_clock(found: Mapping[int, _Number], *, is_in_most_lines: bool) -> LogClock:
    is_epoch = all(_EPOCH.fullmatch(number.text) for number in found.values())
    mask = Counter(number.mask for number in found.values()).most_common(1)[0][0]
    return LogClock(
        "time" if is_epoch else "counter", frozenset([mask]), is_in_most_lines, _is_numbering(_values(found))
    )


def _is_numbering(numbers: Mapping[int, float]) -> bool:
    steps = _steps(numbers)
    [(step, count)] = Counter(steps).most_common(1) or [(0.0, 0)]
    return step.is_integer() and count >= _MIN_EQUAL_STEPS * len(steps)


def _numbers(line: str) -> list[_Number]:
    found = []
    before, at = "", 0
    for match in islice(_NUMBER.finditer(line), _MAX_NUMBERS):
        before = (before + line[max(at, match.start() - FIELD_CHARACTERS) : match.start()])[
            -FIELD_CHARACTERS:
        ]
        found.append(_Number(before, match[0]))
        before, at = before + "#", match.end()
    return found


def _values(found: Mapping[int, _Number]) -> dict[int, float]:
    return {n: number.value for n, number in found.items()}


def _is_in_all_parts(found: Iterable[int], lines: Sequence[str]) -> bool:
    """Return whether all parts of the text have lines with these numbers, and the other lines recur."""
    heads = set(found)
    if not _is_in_parts(heads, lines):
        return False
    others = [line for n, line in enumerate(lines) if n not in heads and _LETTER.search(line)]
    return len(heads) >= _MIN_COUNTED * len(lines) or _are_recurring(others)


def _is_traced(lines: Sequence[str]) -> bool:
    return sum(map(is_stack_frame, lines)) >= _MIN_FRAMES * len(lines)


def _is_in_parts(heads: Collection[int], lines: Sequence[str]) -> bool:
    parts = {n * _PARTS // len(lines) for n in heads}
    return len(heads) >= _MIN_HEADS * len(lines) and len(parts) == _PARTS


def _are_recurring(lines: Sequence[str]) -> bool:
    """Return whether most lines recur apart from their numbers, unlike those of a transcript."""
    forms = Counter(_DIGITS.sub("0", line.strip()) for line in lines)
    return sum(n for n in forms.values() if n > 1) >= _MIN_RECURRING * len(lines)


def _orders(times: Mapping[int, Value]) -> dict[int, float]:
    """Return numbers that are in the order of these times, by line."""
    orders: dict[int, float] = {}
    days, last = 0, 0.0
    for n, value in sorted(times.items()):
        time = line_time(value.text, now=_NOW)
        if time is not None:
            orders[n] = time
        elif clock := _CLOCK.search(value.text):
            seconds = 3600.0 * int(clock[1]) + 60 * int(clock[2]) + int(clock[3])
            days += seconds < last - _DAY_S / 2  # midnight
            last = seconds
            orders[n] = days * _DAY_S + seconds
    return orders


def rises(numbers: Mapping[int, float]) -> bool:
    """Return whether numbers, by line, increase through the text, apart from some that are out of order."""
    steps = _steps(numbers)
    rising, falling = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
    if rising < max(1, _MIN_RISING * len(steps)) or falling > _MAX_FALLING * rising:
        return False
    return falling <= _MAX_RESTARTS * rising or not _falls(numbers)


def _falls(numbers: Mapping[int, float]) -> bool:
    steps = _steps(numbers)
    return sum(-step for step in steps if step < 0) > _MAX_FALL * sum(step for step in steps if step > 0)


def _steps(numbers: Mapping[int, float]) -> list[float]:
    return [after - before for (_, before), (_, after) in pairwise(sorted(numbers.items()))]
