"""Whether a text is a log, and which masks its lines need.

A text is a log if most of its lines carry a timestamp, or a number that rises from line to line. Of what the
masks match in it, timestamps are suggested for masking, and other classes where later lines have values that
no earlier line had: they change with time (process ids, counters, addresses of new clients), so a model that
learned them would find every later line anomalous. Values that recur, such as status codes, stay: they carry
information. Knows the text by a bounded sample of its lines.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from models.text.masks import Masks

TextKind = Literal["log", "text"]

CLASSES = ("timestamp", "date", "uuid", "ip", "hex", "long_numbers", "digits")
"""The masks that may be suggested, in the order in which they are tried."""

_MIN_LINES = 50
_TIMESTAMPS = ("timestamp", "date")
_TIMESTAMPED_SHARE = 0.5  # of the lines of a log; stack traces and wrapped lines have none
_COUNTED_SHARE = 0.8  # of the lines, that have a number in the same place
_RISING_SHARE = 0.1  # of these numbers, that are above the one before: many lines share a second
_FALLING_SHARE = 0.1  # of the rising ones: how many may be below, since threads write out of order
_COUNTED_PLACES = 4  # in a line, where such a number is looked for

_DRIFT = 0.1  # share of values, beyond chance, that only later lines have
_UNIQUE = 0.5  # share of values that recur in no other line: ids
_MIN_VALUES = 20
_MIN_BEFORE = 5  # values at a place in earlier lines, before a later one is called new
_CONTEXT = 6  # characters before a value, that tell its place: a process id is no port

_BLOCK_LINES = 16  # adjacent lines are sampled together
_MAX_BLOCKS = 96
_MAX_LINE_CHARACTERS = 2000  # characters that are kept of a line


@dataclass(frozen=True)
class Recognized:
    """What a text is, as far as `sampled_lines` of its lines tell.

    `lines` has how many of them each suggested mask, in CLASSES, matches. `matches` has where in `example`,
    one of the lines, each of CLASSES would match by itself. `kept` is the share of the sample's characters
    that is left when the suggested masks are applied.
    """

    kind: TextKind
    sampled_lines: int
    lines: dict[str, int] = field(default_factory=dict)
    example: str = ""
    matches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    kept: float = 1.0

    @property
    def masks(self) -> tuple[str, ...]:
        """The suggested masks."""
        return tuple(self.lines)


class LineSample:
    """Evenly spaced blocks of a text's lines, of a text that comes in pieces and whose length is unknown."""

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []
        self._every = 1  # of so many blocks one is kept
        self._line_number = 0
        self._held = ""  # the beginning of a line that is not complete

    def feed(self, text: str) -> None:
        """Take the next characters."""
        first, *rest = text.split("\n")
        self._held += first[: _MAX_LINE_CHARACTERS - len(self._held)]
        if rest:
            self._add([self._held, *rest[:-1]])
            self._held = rest[-1][:_MAX_LINE_CHARACTERS]

    def lines(self) -> list[str]:
        """Return the sampled lines in the text's order; empty lines are left out."""
        last = [self._held] if self._is_sampled() else []
        return [line for block in [*self._blocks, last] for line in block if line.strip()]

    def _is_sampled(self) -> bool:
        return self._line_number // _BLOCK_LINES % self._every == 0

    def _add(self, lines: Sequence[str]) -> None:
        at = 0
        while at < len(lines):
            block, place = divmod(self._line_number, _BLOCK_LINES)
            step = _BLOCK_LINES - place
            if self._is_sampled():
                if place == 0:
                    self._begin_block()
                self._blocks[-1] += [line[:_MAX_LINE_CHARACTERS] for line in lines[at : at + step]]
            else:
                step += (self._every - 1 - block % self._every) * _BLOCK_LINES
            step = min(step, len(lines) - at)
            at += step
            self._line_number += step

    def _begin_block(self) -> None:
        if len(self._blocks) == _MAX_BLOCKS:
            self._blocks = self._blocks[::2]
            self._every *= 2
        self._blocks.append([])


@dataclass(frozen=True)
class _Value:
    """A match of one of CLASSES; equal `place`s are the same field of the same kind of line."""

    line: int
    mask: str
    place: str
    text: str


def recognize(lines: Sequence[str]) -> Recognized:
    """Return what the text is that these lines, in its order, are a sample of."""
    found = Recognized("text", len(lines))
    if len(lines) < _MIN_LINES:
        return found
    values = [value for number, line in enumerate(lines) for value in _values(number, line)]
    stamped = len({v.line for v in values if v.mask in _TIMESTAMPS})
    if stamped < _TIMESTAMPED_SHARE * len(lines) and not _has_counter(values, len(lines)):
        return found
    suggested = Masks([m for m in CLASSES if _is_suggested(m, values, len(lines))])
    if not suggested:
        return found
    counted = dict.fromkeys(suggested.masks, 0)
    for line in lines:
        for mask in {mask for _, _, mask in suggested.matches(line)}:
            counted[suggested.masks[mask]] += 1
    example = max(lines[: 4 * _BLOCK_LINES], key=lambda line: len({m for *_, m in suggested.matches(line)}))
    matches = {m: [(start, end) for start, end, _ in Masks([m]).matches(example)] for m in CLASSES}
    kept = sum(len(suggested.apply(line).text) for line in lines) / sum(map(len, lines))
    return Recognized(
        "log", len(lines), counted, example, {m: spans for m, spans in matches.items() if spans}, kept
    )


_ALL = Masks(CLASSES)


def _values(number: int, line: str) -> list[_Value]:
    found, before, at = [], "", 0
    for start, end, mask in _ALL.matches(line):
        before = (before + line[at:start])[-_CONTEXT:]
        found.append(_Value(number, CLASSES[mask], f"{CLASSES[mask]} {before}", line[start:end]))
        before, at = before + "#", end
    return found


def _has_counter(values: Sequence[_Value], lines: int) -> bool:
    """Return whether most lines have a number, the i-th of the line, that rises through the text."""
    in_lines: dict[int, list[str]] = defaultdict(list)
    for value in values:
        if value.text.isdecimal():
            in_lines[value.line].append(value.text)
    for place in range(_COUNTED_PLACES):
        numbers = [int(texts[place][:18]) for _, texts in sorted(in_lines.items()) if len(texts) > place]
        if len(numbers) < _COUNTED_SHARE * lines:
            continue
        steps = [after - before for before, after in pairwise(numbers)]
        rising, falling = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
        if rising >= _RISING_SHARE * len(steps) and falling <= _FALLING_SHARE * rising:
            return True
    return False


def _is_suggested(mask: str, values: Sequence[_Value], lines: int) -> bool:
    """Return whether values of one class are a time, which will go on even if it has not yet, or change."""
    mine = [value for value in values if value.mask == mask]
    if mask in _TIMESTAMPS and len({v.line for v in mine}) >= _TIMESTAMPED_SHARE * lines:
        return True
    return _changes(mine, lines)


def _changes(values: Sequence[_Value], lines: int) -> bool:
    """Return whether values of one class change with time, or hardly ever recur.

    The share of the later half's values that the earlier half lacks is compared with the same share between
    two random halves: that is chance, as of durations, for which a calibration makes up.
    """
    shuffled = random.Random(0).sample(range(lines), lines)
    later = _new_share(values, lambda line: 2 * line < lines)
    by_chance = _new_share(values, lambda line: 2 * shuffled[line] < lines)
    if later is None or by_chance is None:
        return False
    is_id = values[0].mask != "digits" and by_chance >= _UNIQUE
    return is_id or later - by_chance >= _DRIFT


def _new_share(values: Sequence[_Value], is_before: Callable[[int], bool]) -> float | None:
    """Return the share of values that no line before had in their place; None if they are too few."""
    before: dict[str, list[str]] = defaultdict(list)
    for value in values:
        if is_before(value.line):
            before[value.place].append(value.text)
    known = {place: set(texts) for place, texts in before.items() if len(texts) >= _MIN_BEFORE}
    judged = [value for value in values if not is_before(value.line) and value.place in known]
    if len(judged) < _MIN_VALUES:
        return None
    return sum(value.text not in known[value.place] for value in judged) / len(judged)
