"""What follows what in a log's lines, and how large its numbers are.

A line is read token by token (`line_tokens`), and so is its end. The one or two tokens before are a
*context*: words of many lines as they are, others by their shape. If hundreds of tokens followed a context
and few of them only once, what never followed it is a *break*: by Good ("The population frequencies of
species", 1953) the next token is new with the probability of one that occurred once, or that came late. There
are five kinds:

- another word or value: `GET`, `HEAD` and `POST` follow a quote, and `zebra` does not;
- a word that no line has, also within a token, such as a folder of a path; it is the more improbable, the
  fewer new words came after the token before;
- another shape: of all paths none begins without a slash, and no line ends after `status:`;
- a number over _FAR_BEYOND times the largest in its place, also one that a mask hides;
- quotes or brackets that are not closed as those of other lines.

How often normal lines have breaks is measured: of the last lines of the text, by what the lines before have,
each kind by itself, so that new words in a log hide no numbers. A line's rarity is the lowest of its breaks',
and its p-value the fraction of these lines that are as rare; above the most improbable break of a kind its
estimate halves with each bit. A context counts once there, because lines of a new kind have the same break,
and the flag rule flags the first of them alone; but not in records, whose order means nothing.

>>> from nextchar.models.text.masks import Masks
>>> masks = Masks(["ip"])
>>> lines = [f"10.0.0.{i % 200} {name} /{i}" for i in range(200) for name in ("GET", "HEAD")]
>>> known = Successors.fit(map(masks.apply, lines), lines)
>>> line = "10.0.0.7 zebra /7"
>>> known.find(masks.apply(line), line)[0].reason
'"zebra" where "GET" or "HEAD" was expected'

The successors of a saved model: FILE, a JSON file.
"""

import json
import random
import re
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, starmap
from math import log2
from typing import Any, NamedTuple, Self

from nextchar.models.text.events import fingerprint
from nextchar.models.text.json_file import json_record
from nextchar.models.text.line_tokens import MAX_TOKENS, WILDCARD, Token, shape, tokenize
from nextchar.models.text.masks import NAMED, PLACEHOLDERS, Masked

FILE = "successors.json"
"""The name of its file in a saved model. Models of text that is no log, and older ones, have none."""

FORMAT_VERSION = 1

MAX_CHARACTERS = 1_000_000
"""Maximum number of characters, at the end of the corpus, from which successors are learned."""

_ORDERS = (1, 2)  # tokens of a context
_MIN_WORD_LINES = 20  # of a word that is itself in a context
_MAX_P = 0.002  # probability of a break
_MIN_BITS = -log2(_MAX_P)
_MAX_CONTEXTS = 4_000  # the most frequent ones
_MAX_SUCCESSORS = 500  # of a context; what has more is not checked
_FAR_BEYOND = 4  # times the largest number
_LEARNED = 0.6  # of the lines; the rest show how often there are breaks
_MAX_TOKEN_CHARACTERS = 64  # of a token whose numbers are compared
_MAX_DIGITS = 18
_MAX_LISTED = 3  # expected words
_MAX_P_VALUE = 0.02  # probability of a word that no line has, or of a number out of range
_PRIOR = 20  # words, with new ones as often as anywhere, that are counted in addition to those after a token
_WORD = re.compile(r"[^\W\d_]{2,}")
_KINDS = ("text", "word", "shape", "number", "end")
_START, _END, _BALANCE = "", "\n", "\n\n"  # which no token is
_IDS = ("uuid", "ip", "hex", "hostname", "alphanumeric", "mac")  # masks of values whose numbers say nothing
_WITH_NUMBERS = frozenset(placeholder for name, (placeholder, _) in NAMED.items() if name not in _IDS)
_PLACEHOLDER = re.compile(f"[{''.join(sorted(PLACEHOLDERS))}]")
_DIGITS = re.compile(r"\d+")
_VARYING = re.compile(rf"{_PLACEHOLDER.pattern}|\d")

Context = tuple[str, ...]
Strengths = dict[str, float]
"""Of a line: the most bits of its breaks of each kind."""


@dataclass(frozen=True)
class Break:
    """What a line has that hardly any line could be expected to have.

    Attributes:
        p_value: the fraction of normal lines that have one as improbable. estimated_p: the same, estimated
            also below the lowest one. kind: of _KINDS. place: what lines that break the same context in the
            same way have in common. text: what broke it. reason: why, in words. start, end: where, in the
            masked line; both 0 in an event of several lines. bits: -log2 of its probability in its context.
        score_bits: what it adds to the line's score.
    """

    p_value: float
    estimated_p: float
    kind: str
    place: str
    text: str
    reason: str
    start: int
    end: int
    bits: float
    score_bits: float = 0.0


class _Item(NamedTuple):
    """A token after a context, or the end: masked, by its shape, as it was, its numbers, and where it is."""

    context: Context
    text: str
    shape: str
    original: str
    numbers: Sequence[int]
    start: int
    end: int
    is_word: bool = False

    def words(self) -> Iterator[tuple[str, int, int]]:
        """Yield the words in the token, and where they are."""
        if self.is_word:
            first = self.end - len(self.text)
            for word, start, end in _words_in(self.text):
                yield word, first + start, first + end


class _Counter:
    """Counts what followed a context."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._firsts: list[int] = []  # after how many others each came first

    def add(self, text: str, before: int) -> None:
        """Count one more, after `before` others."""
        if text not in self.counts:
            self._firsts.append(before)
        self.counts[text] = self.counts.get(text, 0) + 1

    def new(self, total: int) -> float:
        """Return the probability that the next one is new: as one that occurred once, or came late."""
        once = sum(1 for count in self.counts.values() if count == 1)
        return _new(max(once, sum(1 for first in self._firsts if first >= total / 2)), total)


@dataclass
class _Counts:
    """Counts what followed a context, as it is and by its shape, and its numbers."""

    count: int = 0
    texts: _Counter = field(default_factory=_Counter)
    shapes: _Counter = field(default_factory=_Counter)
    numbers: dict[str, tuple[int, Sequence[int]]] = field(default_factory=dict)

    def add(self, item: _Item) -> None:
        """Count a token."""
        self.texts.add(item.text, self.count)
        self.shapes.add(item.shape, self.count)
        self.count += 1
        if item.numbers:
            form = shape(item.original)
            count, largest = self.numbers.get(form, (0, item.numbers))
            self.numbers[form] = count + 1, list(map(max, largest, item.numbers))

    def closed(self) -> "_Followers":
        """Return what is needed to find breaks."""
        numbers = {form: one for form, one in self.numbers.items() if _new(0, one[0]) <= _MAX_P_VALUE}
        return _Followers(self.count, *self._closed(self.texts), *self._closed(self.shapes), numbers)

    def _closed(self, counter: _Counter) -> tuple[dict[str, int] | None, float]:
        new = counter.new(self.count)
        is_closed = new <= _MAX_P and len(counter.counts) <= _MAX_SUCCESSORS
        return (counter.counts, new) if is_closed else (None, 1.0)


@dataclass(frozen=True)
class _Followers:
    """What followed a context.

    Attributes:
        count: how many tokens. texts, shapes: how often each occurred; None: too many, or any may follow.
        new_text, new_shape: the probabilities of one that did not. numbers: by form, how many there were and
            the largest of each.
    """

    count: int
    texts: dict[str, int] | None
    new_text: float
    shapes: dict[str, int] | None
    new_shape: float
    numbers: dict[str, tuple[int, Sequence[int]]]

    @property
    def can_break(self) -> bool:
        """Whether anything that follows is a break."""
        return self.texts is not None or self.shapes is not None or bool(self.numbers)


@dataclass(frozen=True)
class _Words:
    """The words of all lines, also within tokens.

    Attributes:
        known: these words. new: the probability that the next word is new, by those that occurred once.
        after: by context, how many words there were, and how many of them occurred once.
    """

    known: AbstractSet[str]
    new: float
    after: Mapping[Context, tuple[int, int]]

    @classmethod
    def of(cls, lines: Sequence["_Line"], words: frozenset[str]) -> Self | None:
        """Return the words of lines, None if new ones are usual everywhere; `words` as for `_Line.items`."""
        places: defaultdict[Context, list[str]] = defaultdict(list)
        for item in chain.from_iterable(line.items(words) for line in lines):
            places[item.context] += (word for word, *_ in item.words())
        counts = Counter(chain.from_iterable(found for at, found in places.items() if len(at) == 1))
        frequent = sorted(places, key=lambda at: -len(places[at]))[:_MAX_CONTEXTS]
        after = {at: (len(places[at]), sum(counts[word] == 1 for word in places[at])) for at in frequent}
        known = cls(counts.keys(), _new(sum(n == 1 for n in counts.values()), counts.total()), after)
        return known if min(map(known.new_after, after), default=1.0) <= _MAX_P_VALUE else None

    def dump(self) -> list[Any]:
        """Return what `_known` takes."""
        return [sorted(self.known), self.new, [[at, *counts] for at, counts in self.after.items()]]

    def new_after(self, context: Context) -> float:
        """Return the probability that a word after one or two tokens is new."""
        p = self.new
        for order in _ORDERS:
            count, once = self.after.get(context[-order:], (0, 0))
            p = (once + _PRIOR * p) / (count + _PRIOR)
        return p


class Successors:
    """What followed contexts in the lines of a log. Immutable once made, and thread-safe.

    Args:
        words: those that are themselves in a context. contexts: what followed. known: all words; None: it is
        not known whether one is new, or new ones are usual. strengths: of those lines that have a break,
        among the `lines` that show how often there are breaks. are_independent: whether each of these counts,
        so that a p-value is that of any line.
    """

    def __init__(
        self,
        words: frozenset[str],
        contexts: dict[Context, _Followers],
        known: _Words | None,
        strengths: Sequence[Strengths],
        lines: int,
        *,
        are_independent: bool = False,
    ) -> None:
        self._words, self._contexts, self._known = words, contexts, known
        self._strengths, self._lines, self._are_independent = strengths, lines, are_independent
        self._by_kind: dict[str, list[float]] = {}
        for line in strengths:
            for kind, bits in line.items():
                insort(self._by_kind.setdefault(kind, []), bits)
        self._rarest = sorted(min(starmap(self._rarity, line.items())) for line in strengths)

    @classmethod
    def fit(
        cls, masked: Iterable[Masked], originals: Iterable[str], *, are_independent: bool = False
    ) -> Self:
        """Return the successors in normal lines, or events, masked and as they were, in their order.

        A context counts once among the last of them, unless the lines `are_independent`.
        """
        lines = [_Line.of(one, original) for one, original in zip(masked, originals, strict=True)]
        if are_independent:
            random.Random(0).shuffle(lines)
        counts = Counter(word for line in lines for word in {token.value for token in line.tokens})
        words = frozenset(word for word, n in counts.items() if n >= _MIN_WORD_LINES and not _has_digit(word))
        first, rest = lines[: int(_LEARNED * len(lines))], lines[int(_LEARNED * len(lines)) :]
        before = cls(words, _followers(first, words), _Words.of(first, words), [], 0)
        strengths: list[Strengths] = []
        seen: set[str] = set()
        for line in rest:
            found = list(before._breaks(line))
            new: Strengths = {}
            for one in found:
                if one.place not in seen:  # once all lines are known, each context has more
                    new[one.kind] = max(new.get(one.kind, 0.0), round(one.bits - log2(_LEARNED), 2))
            if not are_independent:
                seen.update(one.place for one in found)
            strengths += [new] if new else []
        known = _Words.of(lines, words)
        closed = _followers(lines, words)
        return cls(words, closed, known, strengths, len(rest), are_independent=are_independent)

    def find(self, masked: Masked, original: str) -> tuple[Break, ...]:
        """Return the breaks of a line, or of an event's fingerprint, the most improbable first."""
        return tuple(sorted(self._breaks(_Line.of(masked, original)), key=lambda one: one.estimated_p))

    def _breaks(self, line: "_Line") -> Iterator[Break]:
        for item in line.items(self._words):
            known = self._contexts.get(item.context)
            if item.is_word and len(item.context) == max(_ORDERS):
                yield from self._new_words(line, item, known)
            if known is None:
                continue
            if item.numbers and (ranges := known.numbers.get(shape(item.original))):
                count, largest = ranges
                pairs = zip(item.numbers, largest, strict=False)
                if above := next((pair for pair in pairs if _is_far_above(*pair)), None):
                    reason = f"{above[0]:,}{_after(item)}: the highest before was {above[1]:,}"
                    yield self._break(line, item, "number", _new(0, count), reason)
                    continue
            if known.texts is not None and item.text not in known.texts:
                yield self._break(line, item, "text", known.new_text, _reason(item, known))
            if known.shapes is not None and item.shape not in known.shapes:
                yield self._break(line, item, "shape", known.new_shape, _reason(item, known))

    def _new_words(self, line: "_Line", item: _Item, followers: _Followers | None) -> Iterator[Break]:
        known = self._known
        for word, start, end in item.words() if known else ():
            if known and word not in known.known and (p := known.new_after(item.context)) <= _MAX_P_VALUE:
                found = item._replace(context=item.context[-1:], text=word, start=start, end=end)
                reason = f"{_quoted(word)}{_after(item)}, a word that no line has"
                if followers and followers.texts is not None:
                    reason = _reason(item, followers)
                yield self._break(line, found, "word", p, reason)

    def _break(self, line: "_Line", item: _Item, kind: str, probability: float, reason: str) -> Break:
        bits = -log2(probability)
        if item.text == _END or item.context == (_BALANCE,):
            kind = "end"
        rarity = self._rarity(kind, bits)
        p = (1 + bisect_right(self._rarest, rarity)) / (self._lines + 1)
        start, end = (item.start, item.end) if line.is_whole else (0, 0)
        place, score_bits = f"{kind} {item.context}", -log2(p) / 2 if self._are_independent else 0.0
        return Break(p, min(p, rarity), kind, place, item.text, reason, start, end, bits, score_bits)

    def _rarity(self, kind: str, bits: float) -> float:
        """Return the fraction of normal lines that have a break of a kind with so many bits.

        Above the highest it halves with each bit.
        """
        known = self._by_kind.get(kind, [_MIN_BITS])
        at_least = len(known) - bisect_left(known, bits) if kind in self._by_kind else 0
        return (1 + at_least) * 2 ** min(0.0, known[-1] - bits) / (self._lines + 1)

    def dump(self) -> bytes:
        """Return the contents of FILE."""
        contexts = [
            [context, one.count, one.texts, one.new_text, one.shapes, one.new_shape, one.numbers]
            for context, one in self._contexts.items()
        ]
        record = {
            "format_version": FORMAT_VERSION,
            "words": sorted(self._words),
            "contexts": contexts,
            "known": self._known and self._known.dump(),
            "strengths": self._strengths,
            "lines": self._lines,
            "are_independent": self._are_independent,
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Return the successors in the contents of FILE.

        Raises:
            Unavailable: it is damaged (code `model_damaged`), or of a format that this program does not know
                (`model_format_unknown`).
        """
        with json_record(data, FILE, FORMAT_VERSION) as record:
            contexts = {tuple(map(str, context)): _loaded(rest) for context, *rest in record["contexts"]}
            known = _known(*record["known"]) if record.get("known") else None
            strengths = list(map(_strengths, record["strengths"]))
            words, lines = frozenset(map(str, record["words"])), int(record["lines"])
            are_independent = bool(record.get("are_independent"))
            return cls(words, contexts, known, strengths, lines, are_independent=are_independent)


@dataclass(frozen=True)
class _Line:
    """A line's tokens, the values that masks hide in it, and its text."""

    text: str
    tokens: Sequence[Token]
    values: Sequence[str]
    is_whole: bool  # whether it is no fingerprint of several lines

    @classmethod
    def of(cls, masked: Masked, original: str) -> "_Line":
        text = fingerprint(masked.text)
        starts = masked.starts
        values = (
            [original[starts[m.start()] : starts[m.end()]] for m in _PLACEHOLDER.finditer(masked.text)]
            if starts is not None
            else []
        )
        return cls(text, tokenize(text), values, text == masked.text)

    def items(self, words: frozenset[str]) -> Iterator[_Item]:
        """Yield each token, and the end of the line, after each of its contexts."""
        before = [_START] * max(_ORDERS)
        values = iter(self.values)
        for token in self.tokens[:MAX_TOKENS]:
            value = token.value
            is_shaped = token.is_word or token.is_value
            own = token.text[: -len(value)] + shape(value) if is_shaped else token.text
            original, numbers = _numbers(value, values) if is_shaped else (value, [])
            for order in _ORDERS:
                context = tuple(before[-order:])
                yield _Item(
                    context, token.text, own, original, numbers, token.start, token.end, token.is_word
                )
            before.append(token.text if value in words else own)
        if len(self.tokens) <= MAX_TOKENS:
            end = self.tokens[-1].end if self.tokens else 0
            start = self.tokens[-1].start if self.tokens else 0
            for order in _ORDERS:
                yield _Item(tuple(before[-order:]), _END, _END, _END, [], start, end)
            balance = _balance(self.text)
            yield _Item((_BALANCE,), balance, balance, balance, [], start, end)


@lru_cache(maxsize=1 << 14)
def _words_in(text: str) -> tuple[tuple[str, int, int], ...]:
    return tuple((word[0], word.start(), word.end()) for word in _WORD.finditer(text))


def _followers(lines: Sequence[_Line], words: frozenset[str]) -> dict[Context, _Followers]:
    """Return what followed the most frequent contexts that can be broken."""
    found: defaultdict[Context, _Counts] = defaultdict(_Counts)
    for line in lines:
        for item in line.items(words):
            found[item.context].add(item)
    frequent = sorted(found.items(), key=lambda one: -one[1].count)[:_MAX_CONTEXTS]
    closed = {context: one.closed() for context, one in frequent if _new(0, one.count) <= _MAX_P_VALUE}
    return {context: one for context, one in closed.items() if one.can_break}


def _new(once: int, count: int) -> float:
    """Return the probability that the next token is new, if `once` of so many tokens occurred once."""
    return (once + 0.5) / (count + 1)


def _numbers(value: str, hidden: Iterator[str]) -> tuple[str, list[int]]:
    """Return a token with the values of `hidden` for its placeholders, and its numbers, but none of ids."""
    if not _VARYING.search(value):
        return value, []
    is_id = not _WITH_NUMBERS.issuperset(_PLACEHOLDER.findall(value))
    text = _PLACEHOLDER.sub(lambda _: next(hidden, ""), value)
    if is_id or len(value) > _MAX_TOKEN_CHARACTERS:
        return text, []
    return text, [int(digits[:_MAX_DIGITS]) for digits in _DIGITS.findall(text[:_MAX_TOKEN_CHARACTERS])]


def _balance(text: str) -> str:
    """Return how many quotes and brackets are not closed."""
    pairs = (text.count(opening) - text.count(closing) for opening, closing in ("()", "[]", "{}"))
    return " ".join(map(str, [text.count('"') % 2, *(max(-2, min(2, pair)) for pair in pairs)]))


def _is_far_above(number: int, largest: int) -> bool:
    return number > _FAR_BEYOND * max(largest, 2)


def _reason(item: _Item, known: _Followers) -> str:
    if item.context == (_BALANCE,):
        return "a quote or bracket is not closed as in other lines"
    found = "the line ends" if item.text == _END else _quoted(item.original)
    expected = sorted(map(_quoted, known.texts or {}))
    if 0 < len(expected) <= _MAX_LISTED:
        return f"{found} where {' or '.join(expected)} was expected"
    return f"{found}{_after(item)}, as in none of {known.count:,} places"


def _after(item: _Item) -> str:
    last = item.context[-1]
    return f" after {_quoted(last)}" if last != _START else " at the beginning"


def _quoted(text: str) -> str:
    shown = _PLACEHOLDER.sub(WILDCARD, text.strip()[:_MAX_TOKEN_CHARACTERS])
    return "the end of the line" if text == _END else f'"{shown}"'


def _has_digit(word: str) -> bool:
    return _DIGITS.search(word) is not None


def _loaded(record: Sequence[Any]) -> _Followers:
    count, texts, new_text, shapes, new_shape, numbers = record
    if not (0 < new_text <= 1 and 0 < new_shape <= 1 and all(int(n) >= 0 for n, _ in numbers.values())):
        raise ValueError("not a probability, or not a count")
    return _Followers(
        int(count),
        None if texts is None else {str(text): int(n) for text, n in texts.items()},
        float(new_text),
        None if shapes is None else {str(own): int(n) for own, n in shapes.items()},
        float(new_shape),
        {str(form): (int(n), list(map(int, largest))) for form, (n, largest) in numbers.items()},
    )


def _strengths(record: Any) -> Strengths:
    """Return the strengths of a line; older models have one number for all kinds."""
    kinds = record if isinstance(record, dict) else dict.fromkeys(_KINDS, record)
    strengths = {str(kind): float(bits) for kind, bits in kinds.items()}
    if not strengths or not all(bits >= 0 for bits in strengths.values()):
        raise ValueError("not bits")
    return strengths


def _known(words: Sequence[str], new: float, after: Sequence[tuple[Context, int, int]]) -> _Words:
    if not 0 < new <= 1:
        raise ValueError("not a probability")
    counts = {tuple(map(str, context)): (int(count), int(once)) for context, count, once in after}
    return _Words(frozenset(map(str, words)), float(new), counts)
