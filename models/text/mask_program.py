r"""Masks as instructions for a runtime that has no regular expressions: a nondeterministic automaton.

It reads UTF-8 and follows all ways to match at once, in the order of preference of RE2 (leftmost-first, as in
Perl; Pike's algorithm). A deterministic automaton would need a state for each combination of places where a
digit was: 2**15 of them for the mask `hex`.

Expressions are read by Python's parser, as far as RE2 has the same syntax for them.

>>> MaskProgram.of(["numbers"]).instructions.shape  # boundaries, digits, a choice; the match; the first again
(7, 2)
"""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import or_
from re import _constants as c  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import InvalidInput
from nextchar.models.text.masks import NAMED

MAX_INSTRUCTIONS = 20_000
"""Maximum number of instructions of all masks: an expression with large counted repetitions needs many."""

BYTES, SPLIT, ASSERT, MATCH = range(4)
"""Kinds of instructions: read one of a set of bytes; go on at two places, the first preferred; go on if an
assertion holds; a mask has matched."""

BEGINNING, END, BOUNDARY, NO_BOUNDARY = range(4)
"""Assertions: at the beginning of a line or its end, between a word and something else, or not."""

_MAX_POINT = 0x10FFFF
_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_DIGITS, _SPACES = frozenset(b"0123456789"), frozenset(b"\t\n\f\r ")
_CATEGORIES = {c.CATEGORY_DIGIT: _DIGITS, c.CATEGORY_SPACE: _SPACES, c.CATEGORY_WORD: _WORD}
_NOT = {c.CATEGORY_NOT_DIGIT: _DIGITS, c.CATEGORY_NOT_SPACE: _SPACES, c.CATEGORY_NOT_WORD: _WORD}
_ASSERTIONS = {
    c.AT_BEGINNING: BEGINNING,
    c.AT_BEGINNING_STRING: BEGINNING,
    c.AT_END: END,
    c.AT_END_STRING: END,
    c.AT_BOUNDARY: BOUNDARY,
    c.AT_NON_BOUNDARY: NO_BOUNDARY,
}
_OF_RE2_ALONE = ("[:", "{,", r"\C", "(?U", "(?a", "(?L", "(?x")  # or with another meaning there

Ranges = list[tuple[int, int]]  # of code points or bytes, both ends included


@dataclass(frozen=True)
class MaskProgram:
    """The instructions of some masks.

    Attributes:
        instructions: (N, 2) uint32: the kind in the low two bits, and above them the number of the set of
            bytes, of the preferred instruction, of the assertion or of the mask; and the next, or other,
            instruction. The first instruction is the last.
        sets: (S, 8) uint32, bit b % 32 of number b // 32 is set if byte b is in the set.
        starts: (3, 256) uint8, 1 if a match can begin with a byte: at the beginning of a line, after a byte
            that is in no word, and after one that is.
    """

    instructions: NDArray[np.uint32]
    sets: NDArray[np.uint32]
    starts: NDArray[np.uint8]

    @classmethod
    def of(cls, masks: Sequence[str], *, extra: str | None = None) -> Self:
        """Return the program of masks, names or expressions; `extra` is an expression after them.

        Raises:
            InvalidInput: an expression has a form that only RE2 knows, or is too large (code
                `mask_not_packed`).
        """
        program = _Program()
        patterns = [NAMED[mask][1] if mask in NAMED else mask for mask in masks]
        firsts = [
            program.add(pattern, program.emit(MATCH, i), is_named=mask in NAMED)
            for i, (mask, pattern) in enumerate(zip(masks, patterns, strict=True))
        ]
        if extra:
            firsts.append(program.add(extra, program.emit(MATCH, len(masks)), is_named=True))
        program.copy(program.choice(firsts))
        return cls(
            np.array([(kind | at << 2, after) for kind, at, after in program.instructions], np.uint32),
            np.array(
                [[bits >> 32 * i & 0xFFFFFFFF for i in range(8)] for bits in program.sets], np.uint32
            ).reshape(-1, 8),
            program.starts(),
        )


def _refused(mask: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"the mask {mask[:80]!r} cannot be packed: {why}; train a model with another expression, or with"
        f" names of masks alone: {', '.join(NAMED)}",
        code="mask_not_packed",
        param="model",
    )


class _Program:
    """Instructions (kind, argument, next), made from the end of an expression to its beginning."""

    def __init__(self) -> None:
        self.instructions: list[tuple[int, int, int]] = []
        self.sets: dict[int, int] = {}  # the number of each set of bytes, a bit mask
        self._mask, self._is_named = "", True

    def emit(self, kind: int, argument: int, after: int = 0) -> int:
        if len(self.instructions) >= MAX_INSTRUCTIONS:
            raise _refused(self._mask, "its repetitions are too large")
        self.instructions.append((kind, argument, after))
        return len(self.instructions) - 1

    def copy(self, at: int) -> None:
        self.emit(*self.instructions[at])

    def choice(self, firsts: Sequence[int]) -> int:
        """Go on at several places, in this order of preference."""
        at = firsts[-1]
        for first in reversed(firsts[:-1]):
            at = self.emit(SPLIT, first, at)
        return at

    def _bytes(self, bits: int, after: int) -> int:
        return self.emit(BYTES, self.sets.setdefault(bits, len(self.sets)), after)

    def add(self, pattern: str, after: int, *, is_named: bool) -> int:
        """Add an expression and return where it begins."""
        self._mask, self._is_named = pattern, is_named
        folds = pattern.startswith("(?i)")
        if not is_named and any(form in pattern for form in _OF_RE2_ALONE):
            raise _refused(pattern, f"it has one of {', '.join(_OF_RE2_ALONE)}")
        try:
            parsed = parser.parse(pattern, re.ASCII)
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            raise _refused(pattern, f"it has a form that only RE2 knows ({error})") from None
        return self._sequence(list(parsed), after, folds=folds)

    def _sequence(self, items: Sequence[tuple[Any, Any]], after: int, *, folds: bool) -> int:
        for op, argument in reversed(items):
            after = self._item(op, argument, after, folds=folds)
        return after

    def _item(self, op: Any, argument: Any, after: int, *, folds: bool) -> int:
        if op in (c.MAX_REPEAT, c.MIN_REPEAT):
            low, high, items = argument
            return self._repeat(low, high, items, after, is_greedy=op is c.MAX_REPEAT, folds=folds)
        if op is c.SUBPATTERN:
            _, added, removed, items = argument
            folds = (folds or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
            return self._sequence(list(items), after, folds=folds)
        if op is c.BRANCH:
            return self.choice([self._sequence(list(items), after, folds=folds) for items in argument[1]])
        if op is c.AT:
            return self.emit(ASSERT, _ASSERTIONS[argument], after)
        ranges = _points_of(op, argument, self._mask, folds=folds)
        if folds and not self._is_named and _has_letters(ranges):
            raise _refused(self._mask, "it has letters beyond ASCII in any case of them")
        return self._points(ranges, after)

    def _repeat(self, low: int, high: Any, items: Any, after: int, *, is_greedy: bool, folds: bool) -> int:
        def choice(more: int) -> tuple[int, int, int]:
            return (SPLIT, more, after) if is_greedy else (SPLIT, after, more)

        if high is c.MAXREPEAT:
            first = self.emit(SPLIT, 0)
            self.instructions[first] = choice(self._sequence(list(items), first, folds=folds))
        else:
            first = after
            for _ in range(high - low):
                first = self.emit(*choice(self._sequence(list(items), first, folds=folds)))
        for _ in range(low):
            first = self._sequence(list(items), first, folds=folds)
        return first

    def _points(self, ranges: Ranges, after: int) -> int:
        """Add a set of code points, as sequences of bytes."""
        single = functools.reduce(or_, (_bits(low, min(high, 0x7F)) for low, high in ranges if low < 0x80), 0)
        firsts = [self._bytes(single, after)] if single else []
        for low, high in ranges:
            for sequence in _utf8_ranges(max(low, 0x80), high):
                at = after
                for first, last in reversed(sequence):
                    at = self._bytes(_bits(first, last), at)
                firsts.append(at)
        return self.choice(firsts)

    def starts(self) -> NDArray[np.uint8]:
        """Return the `starts` of a program that begins with the last instruction."""
        starts, bits_of = np.zeros((3, 256), np.uint8), list(self.sets)
        for before, after in itertools.product(range(3), range(2)):  # the next byte is in a word, or is not
            found, stack, seen = 0, [len(self.instructions) - 1], set[int]()
            while stack:
                at = stack.pop()
                kind, argument, following = self.instructions[at]
                if kind == BYTES:
                    found |= bits_of[argument]
                elif kind == MATCH:
                    found |= _bits(0, 255)
                elif at not in seen:
                    stack += (argument, following) if kind == SPLIT else ()
                    stack += [following] * (kind == ASSERT and _can_hold(argument, before, after))
                seen.add(at)
            for byte in range(256):
                if (byte in _WORD) == bool(after):
                    starts[before, byte] = found >> byte & 1
        return starts


def _can_hold(assertion: int, before: int, after: int) -> bool:
    """Return whether an assertion holds before a byte; see `MaskProgram.starts`."""
    if assertion in (BEGINNING, END):
        return assertion == BEGINNING and before == 0
    return ((before == 2) != bool(after)) == (assertion == BOUNDARY)


def _has_letters(ranges: Ranges) -> bool:
    """Return whether there are few code points, letters beyond ASCII among them but for those of s and k."""
    few = [point for low, high in ranges if high - low < 0x1000 for point in range(max(low, 0x80), high + 1)]
    return any(chr(point) not in "ſ\u212a" and chr(point).lower() != chr(point).upper() for point in few)


def _bits(low: int, high: int) -> int:
    return (1 << (high + 1)) - (1 << low)


def _points_of(op: Any, argument: Any, mask: str, *, folds: bool) -> Ranges:
    """Return the code points that one item matches."""
    if op is c.ANY:
        return [(0, 9), (11, _MAX_POINT)]
    if op in (c.LITERAL, c.NOT_LITERAL):
        found = [(argument, argument)]
        return _without(_folded(found, folds=folds)) if op is c.NOT_LITERAL else _folded(found, folds=folds)
    if op is not c.IN:
        raise _refused(mask, "it has a form that RE2 does not know")
    ranges: Ranges = []
    for kind, value in argument:
        if kind is c.LITERAL:
            ranges.append((value, value))
        elif kind is c.RANGE:
            ranges.append(value)
        elif kind is c.CATEGORY and value in _CATEGORIES:
            ranges += [(byte, byte) for byte in sorted(_CATEGORIES[value])]
        elif kind is c.CATEGORY:
            ranges += _without([(byte, byte) for byte in _NOT[value]])
    ranges = _folded(ranges, folds=folds)
    return _without(ranges) if argument[0][0] is c.NEGATE else ranges


def _folded(ranges: Ranges, *, folds: bool) -> Ranges:
    """Return ranges, with the other cases of their letters if `folds`."""
    if not folds:
        return ranges
    more = []
    for low, high in ranges:
        for point in range(low, min(high, 0x2FFF) + 1):  # further scripts have no cases, or are not folded
            character = chr(point)
            others = {character.lower(), character.upper(), character.casefold()}
            others |= {other.upper() for other in others} | {other.lower() for other in others}
            others |= {{"s": "ſ", "k": "\u212a"}.get(other, other) for other in others}
            more += [(ord(other), ord(other)) for other in others if len(other) == 1]
    return ranges + more


def _without(ranges: Ranges) -> Ranges:
    """Return the code points that are in none of the ranges."""
    left, first = [], 0
    for low, high in sorted(ranges):
        if first < low:
            left.append((first, low - 1))
        first = max(first, high + 1)
    return [*left, (first, _MAX_POINT)] if first <= _MAX_POINT else left


def _utf8_ranges(low: int, high: int) -> Iterator[Ranges]:
    """Yield the ranges of bytes, for each length and prefix, that are the UTF-8 of code points from 0x80."""
    if low > high:
        return
    for last in (0x7FF, 0xFFFF, _MAX_POINT):
        if low <= last < high:
            yield from _utf8_ranges(low, last)
            low = last + 1
    size = 2 if high <= 0x7FF else 3 if high <= 0xFFFF else 4
    for i in range(1, size):
        block = (1 << 6 * i) - 1
        if low & ~block != high & ~block:
            if low & block:
                yield from _utf8_ranges(low, low | block)
                yield from _utf8_ranges((low | block) + 1, high)
                return
            if high & block != block:
                yield from _utf8_ranges(low, (high & ~block) - 1)
                yield from _utf8_ranges(high & ~block, high)
                return
    yield list(zip(_utf8(low, size), _utf8(high, size), strict=True))


def _utf8(point: int, size: int) -> list[int]:
    """Return the UTF-8 of a code point, a surrogate, too."""
    tail = [0x80 | point >> 6 * i & 0x3F for i in reversed(range(size - 1))]
    return [(0xF00 >> size & 0xFF) | point >> 6 * (size - 1), *tail]
