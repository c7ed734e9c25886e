"""Which lines of a corpus a prefix may stand for: at the start or a word inside, also with typing errors."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import InvalidInput, Unavailable
from nextchar.models.kernels.compile_cache import SEARCH_KERNELS, compile_kernels
from nextchar.models.text.line_file import FILE, Lines, fold
from nextchar.models.text.masks import compile_pattern

ERROR_BITS = 9.0
"""How much less likely a line becomes by each typing error in the prefix, as of the noisy channel of lines
(`nextchar.models.anomaly.noisy_channel`)."""

KIND_BITS = 2.0
"""How much less than that a single error costs if a character is left out or exchanged with its neighbor, and
how much more if it is wrong or one too many: many others may be typed in place of a character."""

ACCENT_BITS = 10.0
"""How much less likely a line is that has other accents than the prefix."""

INSIDE_BITS = 4.0
"""How much less likely a line is if it does not begin with the prefix, but has a word that does."""

MAX_TYPOS = 2
_MORE_WITH_ACCENTS = 16  # times as many candidates
_MIN_RESPELLED = 3  # characters of a word, with the space after it


@dataclass(frozen=True)
class Candidate:
    """A line that a prefix may stand for.

    Attributes:
        line: its index.
        text: as it stands in the corpus.
        folded: without the differences that a search ignores.
        count: how often.
        errors: typing errors in the prefix.
        penalty_bits: how much less likely the line is because of how it matches.
        meant: its folded characters that the prefix stands for, if there are errors.
        is_inside: whether these begin at a word after the first.
    """

    line: int
    text: str
    folded: str
    count: int
    errors: int = 0
    meant: str = ""
    is_inside: bool = False
    penalty_bits: float = 0.0


@dataclass(frozen=True)
class Found:
    """Candidates, those that begin with the prefix first, then by count and penalty.

    `coverage` is the part of all occurrences of the lines with the prefix that the candidates are.
    """

    candidates: list[Candidate]
    coverage: float


def default_typos(prefix: str) -> int:
    """Return how many typing errors a prefix may have by its length.

    >>> [default_typos("x" * n) for n in (3, 4, 7, 8)]
    [0, 1, 1, 2]
    """
    return (len(prefix) >= 4) + (len(prefix) >= 8)


class LineIndex:
    """Search in the lines of a model. Thread-safe."""

    def __init__(self, lines: Lines, added: Mapping[int, int] | None = None) -> None:
        """`added` is what the counts of some lines have in addition to those of the corpus.

        Raises Unavailable: a pattern of the lines is no RE2 expression (code `model_damaged`).
        """
        self.lines, self._added = lines, added or {}
        try:
            self._patterns = [compile_pattern(p, code="", param="") for p in lines.excluded_patterns()]
        except InvalidInput as error:
            raise Unavailable(f"{FILE} is damaged: {error.message}", code="model_damaged") from None
        self._kernels = _kernels()

    @property
    def weight(self) -> float:
        """The weight of the network in the ranking, from 0 to 1."""
        return float(self.lines.weight[0])

    def weight_among(self, candidates: Sequence[Candidate]) -> float:
        """Return the weight of the network among candidates: the less, the more of their counts was added.

        What was added says how popular a line is, as counts in a column of the corpus do, which decide alone.
        """
        added = sum(self._added.get(candidate.line, 0) for candidate in candidates)
        return self.weight * (1 - added / sum(c.count for c in candidates)) if added else self.weight

    def with_lines(self, texts: Iterable[str]) -> "LineIndex":
        """Return an index that has these lines, too, but for those that may not be suggested."""
        return LineIndex(self.lines.with_lines([text for text in texts if not self.is_hidden(text)]))

    def with_counts(self, added: Mapping[str, float]) -> "LineIndex":
        """Return an index of the same lines, whose counts are larger by these; others are ignored."""
        found = self.lines.find(added)
        counts = self.lines.counts.astype(np.float64)
        np.add.at(counts, found[found >= 0], np.array(list(added.values()), np.float64)[found >= 0])
        lines = self.lines.with_counts(np.rint(counts).astype(np.int64))
        more = {
            line: int(lines.counts[line]) - int(self.lines.counts[line])
            for line in found[found >= 0].tolist()
        }
        return LineIndex(lines, more)

    def search(self, prefix: str, *, context: str = "", typos: int, wanted: int, most: int) -> Found:
        """Return lines that begin with `context` and `prefix`, at most `most`.

        If fewer than `wanted` begin with it, also lines that have it at a word inside, and lines that begin
        with it but for typing errors in the prefix; if there is none without, these also at a word inside.
        Case and accents make no difference.
        """
        exact = self.lines.encode(fold(context))
        query = np.concatenate([exact, self.lines.encode(fold(prefix))])
        ranges = self._ranges(self.lines.starts, query, len(query), 0)
        typed = (context + prefix).casefold()
        # Those of largest count may all have none of the accents that are typed.
        found = self._largest(ranges, most if typed.isascii() else _MORE_WITH_ACCENTS * most)
        candidates = [
            one if one.text.casefold().startswith(typed) else replace(one, penalty_bits=ACCENT_BITS)
            for one in found
        ]
        candidates = sorted(candidates, key=_score, reverse=True)[:most]
        coverage = self._coverage(ranges, candidates)
        if len(candidates) >= wanted or len(query) == len(exact):
            return Found(candidates, coverage)
        others: list[Candidate] = []
        if not len(exact):
            inside = self._ranges(self.lines.words, query, len(query), 0)
            found = self._largest(inside, most, is_inside=True)
            others += [replace(one, penalty_bits=INSIDE_BITS) for one in found]
        everywhere = not (candidates or others or len(exact))
        folded = fold(context + prefix)
        for errors, is_inside in itertools.product(range(1, typos + 1), (False, True)[: 1 + everywhere]):
            if len(candidates) + len(others) < wanted:
                places = self.lines.words if is_inside else self.lines.starts
                ranges = self._ranges(places, query, len(exact), errors)
                found = self._largest(ranges[ranges[:, 2] == errors], 2 * most, is_inside=is_inside)
                others += [replace(one, penalty_bits=_error_bits(folded, one)) for one in found]
        seen = {candidate.line for candidate in candidates}
        others.sort(key=_score, reverse=True)
        for candidate in others:
            if candidate.line not in seen:
                seen.add(candidate.line)
                candidates.append(candidate)
        return Found(candidates[:most], coverage)

    def respelled(self, typed: str, most: int) -> list[str]:
        """Return a text with one word as lines spell it, which is one typing error away, the likeliest first.

        Looked for are words that no line has, in lower case and without accents; the last may be unfinished.
        """
        *whole, last = typed.split(" ")
        words = [*(word + " " for word in whole), last]
        found: defaultdict[str, float] = defaultdict(float)
        for i, word in enumerate(words):
            query = self.lines.encode(word)
            places = (self.lines.starts, self.lines.words)
            if len(word) < _MIN_RESPELLED or word != fold(word):
                continue
            if any(len(self._ranges(all_of, query, len(query), 0)) for all_of in places):
                continue
            for all_of in places:
                for lo, hi, _, matched in self._ranges(all_of, query, 0, 1).tolist():
                    meant = self.lines.decode(int(all_of[lo]), matched)
                    if meant.endswith(" ") or i == len(whole):
                        text = "".join([*words[:i], meant, *words[i + 1 :]])
                        found[text] += (hi - lo) * 2.0 ** -single_error_bits(word, meant)
        return sorted(found, key=found.__getitem__, reverse=True)[:most]

    def candidate(self, line: int) -> Candidate:
        """Return a line that begins with what was typed."""
        folded = self.lines.folded_text(line)
        return Candidate(line, self.lines.own_text(line) or folded, folded, int(self.lines.counts[line]))

    def is_hidden(self, text: str) -> bool:
        """Return whether a text may not be suggested: it was seen too seldom, or is excluded."""
        return self.lines.is_withheld(text) or any(pattern.search(text) for pattern in self._patterns)

    def count_of(self, text: str) -> int | None:
        """Return how often a line occurs that is this text but for case and accents; None: there is none."""
        query = self.lines.encode(fold(text))
        if (query < 0).any():
            return None
        ranges = self._ranges(self.lines.starts, np.append(query, 0).astype(np.int32), len(query) + 1, 0)
        return next((c.count for c in self._largest(ranges, 1)), None)

    def _ranges(
        self, places: NDArray[np.uint32], query: NDArray[np.int32], exact: int, errors: int
    ) -> NDArray[np.int32]:
        """Return the ranges (R, 4) of a query, those with the fewest errors first.

        Of these, those that stand for most characters are first: a line is found in the first of its ranges,
        and one more character that was left out is likelier than a wrong one.
        """
        found = np.empty((1 if errors == 0 else self._kernels.MAX_RANGES, 4), np.int32)
        count = self._kernels.find_ranges(self.lines.folded, places, query, exact, errors, found)
        found = found[:count]
        return np.ascontiguousarray(found[np.lexsort((-found[:, 3], found[:, 2]))])

    def _largest(
        self, ranges: NDArray[np.int32], most: int, *, is_inside: bool = False
    ) -> Iterator[Candidate]:
        """Yield the lines of largest count in ranges, with a penalty for errors."""
        lines = self.lines
        places, maxima = (lines.words, lines.word_maxima) if is_inside else (lines.starts, lines.maxima)
        scores, best = np.empty(most, np.float32), np.empty((most, 2), np.int32)
        count = self._kernels.largest(
            ranges, places, lines.starts, lines.counts, maxima, ERROR_BITS, scores, best
        )
        for line, index in best[:count].tolist():
            first, _, errors, matched = ranges[index].tolist()
            meant = lines.decode(int(places[first]), matched) if errors else ""
            one = self.candidate(line)
            yield (
                replace(one, errors=errors, meant=meant, is_inside=is_inside) if errors or is_inside else one
            )

    def _coverage(self, ranges: NDArray[np.int32], candidates: list[Candidate]) -> float:
        if not len(ranges) or ranges[0, 1] - ranges[0, 0] == len(candidates):
            return 1.0
        total = int(self.lines.counts[ranges[0, 0] : ranges[0, 1]].sum(dtype=np.int64))
        return sum(candidate.count for candidate in candidates) / max(1, total)


def _score(candidate: Candidate) -> float:
    return math.log2(1 + candidate.count) - candidate.penalty_bits


def _error_bits(typed: str, candidate: Candidate) -> float:
    """Return how much less likely a line is because of the errors in folded characters typed for it."""
    inside_bits = INSIDE_BITS * candidate.is_inside
    if candidate.errors != 1:
        return ERROR_BITS * candidate.errors + inside_bits
    return single_error_bits(typed, candidate.meant) + inside_bits


def single_error_bits(typed: Sequence[str | int], meant: Sequence[str | int]) -> float:
    """Return how much less likely is that characters are meant by others, which differ by a typing error."""
    is_exchanged = len(meant) == len(typed) and Counter(meant) == Counter(typed)
    return ERROR_BITS + (-KIND_BITS if is_exchanged or len(meant) > len(typed) else KIND_BITS)


@cache
def _kernels() -> Any:
    compile_kernels(SEARCH_KERNELS)  # waits if another process is compiling
    from nextchar.models.kernels import line_search

    return line_search
