"""Templates of lines: what a log line says, without the values that vary.

A parse tree as in Drain (He, Zhu, Zheng, Lyu: "Drain: An Online Log Parsing Approach with Fixed Depth Tree",
ICWS 2017). A line is split at spaces and delimiters. The tree's first level is the line's structure (where
words, delimiters and spaces are), its second level the first word that is neither common nor a number; a leaf
holds templates. A training line joins the template with which it has the most words in common, if that is at
least half of them, and the positions in which they differ become wildcards. Differences from Drain: the
structure takes the place of the number of words; words that occur in most lines do not count as words in
common, because a log's lines begin alike; and numbers and masked values are always wildcards.

The tree is built once from the training lines and then does not change, so a line's template is the same in
every process. A line that matches no template is *new*: it gets a template of its own, with the wildcards of
the most similar one, and the count 0.

>>> known = Templates.fit(["login of ann", "login of bob", "login of eve", "disk full"])
>>> known.template_of("login of joe").pattern, known.template_of("login of joe").count
('login of <*>', 3)
>>> known.template_of("disk lost").pattern, known.template_of("disk lost").count
('disk lost', 0)
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice
from math import log2
from typing import Self

WILDCARD = "<*>"

MAX_TEMPLATES = 2_000
"""More are not made: further training lines without a template are only counted (`Templates.unparsed`)."""

MAX_TOKENS = 128
"""Of a line; what follows counts as one value."""

_MAX_TOKEN_CHARACTERS = 64  # a longer word is a value
_MAX_LEAF = 50  # templates; further lines join the most similar one
_MAX_CHILDREN = 100  # first words per structure; further ones share a leaf
_MIN_SIMILARITY = 0.5  # share of the words in common
_MIN_COMPARED = 2  # words; if fewer are neither common nor have digits, all words are compared
_COMMON = 0.9  # of the lines: words in more of them do not count as words in common
_MAX_COMPARED = 200  # templates with which a new line is compared
_MAX_VALUES = 32  # of a wildcard that are kept, the most frequent ones

_DELIMITERS = re.escape("=,;&|?()[]{}<>\"':")
_TOKEN = re.compile(rf"(\s*)(?:([^\s{_DELIMITERS}]+)|([{_DELIMITERS}]+))")
_HEX = re.compile(r"(?:0[xX])?(?=\D*\d)[0-9A-Fa-f][-0-9A-Fa-f]{5,}|0[xX][0-9A-Fa-f]+")  # and UUIDs
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")

Tokens = tuple[str | None, ...]
"""A template's tokens, each with the space before it; None for a wildcard without a space, " " with one."""


@dataclass(frozen=True)
class Template:
    """What a line says, without the values that vary.

    Attributes:
        pattern: its tokens, with WILDCARD for values.
        count: training lines that match it; 0 for a new template.
    """

    pattern: str
    count: int

    @cached_property
    def id(self) -> str:
        """Return 16 hexadecimal digits, which depend on the pattern alone."""
        return hashlib.sha256(self.pattern.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def is_new(self) -> bool:
        """Whether no training line matches it."""
        return not self.count


@dataclass(frozen=True)
class Frequencies:
    """How often values occurred in `total` places; only the most frequent values are kept."""

    total: int
    kept: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counter[str], max_kept: int) -> Self:
        """Return those of counted values. Of equally frequent ones the first in order are kept."""
        kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_kept]
        return cls(counts.total(), dict(kept))

    def rarity(self, value: str) -> float:
        """Return -log2 of the probability that a value is at least as rare as this one."""
        return self._rarity.bits(self.kept.get(value, 0))

    @cached_property
    def _rarity(self) -> "Rarity":
        places = Counter[int]()
        for count in self.kept.values():
            places[count] += count
        if not_kept := self.total - sum(self.kept.values()):
            places[0] = not_kept
        return Rarity(self.total, places)


class Rarity:
    """How probable values are that occurred a number of times.

    By Good ("The population frequencies of species and the estimation of population parameters", 1953): that
    the next value is one that occurred c times is as probable as a place whose value occurred c + 1 times.

    Args:
        total: the places.
        places: by how often a value occurred, the places that have such values.
    """

    def __init__(self, total: int, places: Mapping[int, int]) -> None:
        self._total = total
        self._counts = sorted(places)
        self._up_to = list(accumulate(places[count] for count in self._counts))

    def bits(self, count: int) -> float:
        """Return -log2 of the probability that the next value occurred at most `count` times."""
        position = bisect_right(self._counts, count + 1)
        places = self._up_to[position - 1] if position else 0
        return log2((self._total + 1) / (places + 1))


@dataclass(frozen=True)
class Slot:
    """A wildcard of a template: its values in the training lines, and their shapes (see `shape`)."""

    values: Frequencies
    shapes: Frequencies

    def rarity(self, value: str) -> float:
        """Return the rarity of a value or of its shape, whichever is rarer, in bits."""
        return max(self.values.rarity(value), self.shapes.rarity(shape(value)))


@dataclass(frozen=True)
class KnownTemplate:
    """A template of training lines.

    Attributes:
        tokens: its tokens.
        first_word: the first word of its lines, by which the tree finds it; "" if they differ or have none.
        count: training lines that match it.
        slots: one for each wildcard.
    """

    tokens: Tokens
    first_word: str
    count: int
    slots: tuple[Slot, ...]

    @cached_property
    def template(self) -> Template:
        """The template, as it is shown."""
        return Template(_pattern(self.tokens), self.count)


@dataclass(frozen=True)
class ParsedLine:
    """A line and its template.

    Attributes:
        template: the line's template; new if no training line had it.
        parameters: the values in place of its wildcards.
        template_bits: rarity of the template: -log2 of the share of training lines with one as rare or rarer.
        parameter_bits: rarity of the rarest value among those of the same wildcard; 0 for a new template.
        fixed_share: the share of the line's tokens that are not values; 0 for a new template.
    """

    template: Template
    parameters: tuple[str, ...]
    template_bits: float
    parameter_bits: float
    fixed_share: float = 0.0


@dataclass(frozen=True)
class _Token:
    text: str  # with one space before it, if there was any
    is_word: bool
    is_value: bool  # a number, a masked value, or very long

    @property
    def value(self) -> str:
        return self.text.removeprefix(" ")

    @property
    def wildcard(self) -> str | None:
        return " " if self.text.startswith(" ") else None


class Templates:
    """The templates of training lines. Immutable and thread-safe.

    Args:
        known: the templates.
        lines: how many training lines there were.
        unparsed: how many of them have no template, because there were too many templates.
        common: words in most lines.
    """

    def __init__(
        self,
        known: Sequence[KnownTemplate],
        *,
        lines: int,
        unparsed: int,
        common: frozenset[str],
    ) -> None:
        self.known = tuple(known)
        self.lines, self.unparsed = lines, unparsed
        self.common = common
        by_count = Counter[int]()
        for one in known:
            by_count[one.count] += one.count
        if unparsed:
            by_count[1] += unparsed
        self._template_rarity = Rarity(lines, by_count)
        self._tree = _Tree()
        for index, one in enumerate(known):
            self._tree.add(_structure_of(one.tokens), one.first_word, index)

    @classmethod
    def fit(cls, lines: Iterable[str]) -> Self:
        """Return the templates of normal lines, which are masked like those that will be parsed."""
        counted = Counter(lines)
        total = counted.total()
        parsed = [(_tokenize(line), count) for line, count in counted.items()]
        words = Counter[str]()
        for tokens, count in parsed:
            for word in {token.value for token in tokens if token.is_word}:
                words[word] += count
        common = frozenset(word for word, count in words.items() if count > _COMMON * total)
        builder = _Builder(common)
        for tokens, _ in parsed:
            builder.add(tokens)
        # Once all wildcards are known, the lines are matched again: like lines to be scored.
        bare = [KnownTemplate(tokens, word, 0, ()) for tokens, word in builder.templates().items()]
        matcher = cls(bare, lines=total, unparsed=0, common=common)
        filled = [_Filling(one.tokens, one.first_word) for one in bare]
        unparsed = 0
        for tokens, count in parsed:
            index = matcher._match(tokens)
            if index is None:
                unparsed += count
            else:
                filled[index].add(tokens, count)
        known = [one.known() for one in filled if one.count]
        return cls(known, lines=total, unparsed=unparsed, common=common)

    @property
    def is_complete(self) -> bool:
        """Whether every training line has a template: whether there were not too many."""
        return not self.unparsed

    def template_of(self, line: str) -> Template:
        """Return the template of a masked line. Total: any text has one."""
        return self.parse(line).template

    def parse(self, line: str) -> ParsedLine:
        """Return the template, values and rarities of a masked line."""
        tokens = _tokenize(line)
        index = self._match(tokens)
        if index is not None:
            known = self.known[index]
            values = [
                token.value for token, own in zip(tokens, known.tokens, strict=True) if is_wildcard(own)
            ]
            rarest = max(
                (slot.rarity(value) for slot, value in zip(known.slots, values, strict=True)), default=0.0
            )
            rarity = self._template_rarity.bits(known.count)
            fixed = 1 - len(values) / max(1, len(tokens))
            return ParsedLine(known.template, tuple(values), rarity, rarest, fixed)
        new = self._generalized(tokens)
        values = [token.value for token, own in zip(tokens, new, strict=True) if is_wildcard(own)]
        rarity = self._template_rarity.bits(0)
        return ParsedLine(Template(_pattern(new), 0), tuple(values), rarity, 0.0)

    def _match(self, tokens: Sequence[_Token]) -> int | None:
        """Return the template that the tokens match; of several the one with the fewest wildcards."""
        texts = [token.text for token in tokens]
        matching = [i for i in self._leaf(tokens) if _matches(self.known[i].tokens, texts)]
        return min(matching, key=lambda i: (sum(map(is_wildcard, self.known[i].tokens)), i), default=None)

    def _generalized(self, tokens: Sequence[_Token]) -> Tokens:
        """Return the tokens with the wildcards of the most similar known template."""
        leaf = self._leaf(tokens) or self._tree.of_structure(_structure(tokens))
        nearest = max(
            ((_similarity(self.known[i].tokens, tokens, self.common), -i) for i in leaf[:_MAX_COMPARED]),
            default=(0.0, 0),
        )
        if nearest[0] < _MIN_SIMILARITY:
            return tuple(token.wildcard if token.is_value else token.text for token in tokens)
        own = self.known[-nearest[1]].tokens
        return tuple(
            token.wildcard if token.is_value or is_wildcard(other) else token.text
            for token, other in zip(tokens, own, strict=True)
        )

    def _leaf(self, tokens: Sequence[_Token]) -> Sequence[int]:
        return self._tree.leaf(_structure(tokens), _first_word(tokens, self.common))


class _Tree:
    """Indices of templates by structure and first word."""

    def __init__(self) -> None:
        self._children: dict[str, dict[str, list[int]]] = {}

    def leaf(self, structure: str, word: str) -> list[int]:
        """Return the templates that a line may have: those of its word, then those of any word."""
        children = self._children.get(structure, {})
        own = children.get(word, [])
        return own + children.get("", []) if word else own

    def of_structure(self, structure: str) -> list[int]:
        """Return all templates of a structure."""
        return list(chain.from_iterable(self._children.get(structure, {}).values()))

    def add(self, structure: str, word: str, index: int) -> str:
        """Add a template and return the word under which it is: "" if there are too many others."""
        children = self._children.setdefault(structure, {})
        if word not in children and len(children) >= _MAX_CHILDREN:
            word = ""
        children.setdefault(word, []).append(index)
        return word


class _Builder:
    """Makes templates of lines that are added one after the other."""

    def __init__(self, common: frozenset[str]) -> None:
        self._common = common
        self._tree = _Tree()
        self._templates: list[list[str | None]] = []
        self._words: list[str] = []

    def add(self, tokens: Sequence[_Token]) -> None:
        structure, word = _structure(tokens), _first_word(tokens, self._common)
        leaf = self._tree.leaf(structure, word)
        best, similarity = -1, -1.0
        for index in leaf:
            own = _similarity(self._templates[index], tokens, self._common)
            if own > similarity:
                best, similarity = index, own
        if similarity >= _MIN_SIMILARITY or len(leaf) >= _MAX_LEAF:
            template = self._templates[best]
            for i, token in enumerate(tokens):
                if template[i] != token.text:
                    template[i] = token.wildcard
        elif len(self._templates) < MAX_TEMPLATES:
            self._words.append(self._tree.add(structure, word, len(self._templates)))
            self._templates.append([token.wildcard if token.is_value else token.text for token in tokens])

    def templates(self) -> dict[Tokens, str]:
        """Return the templates, each once, with their first words."""
        found: dict[Tokens, str] = {}
        for template, word in zip(self._templates, self._words, strict=True):
            found[tuple(template)] = word if found.get(tuple(template), word) == word else ""
        return found


@dataclass
class _Filling:
    """Counts the lines of a template and the values of its wildcards."""

    tokens: Tokens
    first_word: str
    count: int = 0
    values: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, tokens: Sequence[_Token], count: int) -> None:
        self.count += count
        for i, own in enumerate(self.tokens):
            if is_wildcard(own):
                self.values.setdefault(i, Counter())[tokens[i].value] += count

    def known(self) -> KnownTemplate:
        slots = []
        for values in self.values.values():
            shapes = Counter[str]()
            for value, count in values.items():
                shapes[shape(value)] += count
            slots.append(Slot(Frequencies.of(values, _MAX_VALUES), Frequencies.of(shapes, _MAX_VALUES)))
        return KnownTemplate(self.tokens, self.first_word, self.count, tuple(slots))


def shape(value: str) -> str:
    """Return a value with each run of letters as one `a` and each run of digits as one `0`.

    >>> shape("core.2275"), shape("10.0.0.1")
    ('a.0', '0.0.0.0')
    """
    return _DIGITS.sub("0", _LETTERS.sub("a", value[:_MAX_TOKEN_CHARACTERS]))


def _tokenize(line: str) -> list[_Token]:
    tokens, end = [], 0
    line = line.rstrip()  # from each of many final spaces, `\s*` would search to the end again
    for match in islice(_TOKEN.finditer(line), MAX_TOKENS):
        space, word, delimiters = match.groups()
        end = match.end()
        text = word or delimiters
        is_value = bool(word) and _is_value(word)
        tokens.append(
            _Token(
                (" " if space else "") + (text if is_value else text[:_MAX_TOKEN_CHARACTERS]),
                bool(word) and not is_value,
                is_value,
            )
        )
    if rest := line[end:].strip():
        tokens.append(_Token(rest, is_word=False, is_value=True))
    return tokens


def _is_value(word: str) -> bool:
    if len(word) > _MAX_TOKEN_CHARACTERS:
        return True
    return not _LETTERS.search(word) or bool(_HEX.fullmatch(word))


def is_wildcard(token: str | None) -> bool:
    """Return whether a token of a template is a wildcard."""
    return token in {None, " "}


def _pattern(tokens: Tokens) -> str:
    return "".join((token or "") + WILDCARD if is_wildcard(token) else str(token) for token in tokens)


def _structure(tokens: Sequence[_Token]) -> str:
    """Return where words, delimiters and spaces are. Letters stand for words, so no word can forge it."""
    return "".join(
        (" " if token.text.startswith(" ") else "") + "w" if token.is_word or token.is_value else token.text
        for token in tokens
    )


def _structure_of(tokens: Tokens) -> str:
    return "".join(
        (token or "") + "w" if is_wildcard(token) else _word_structure(str(token)) for token in tokens
    )


def _word_structure(token: str) -> str:
    return token if _is_delimiters(token) else (" w" if token.startswith(" ") else "w")


def _is_delimiters(token: str) -> bool:
    found = _TOKEN.match(token)
    return found is not None and found[3] is not None


def _first_word(tokens: Sequence[_Token], common: frozenset[str]) -> str:
    for i, token in enumerate(tokens):
        if i and not token.text.startswith(" "):  # not after a delimiter, as values are
            continue
        if token.is_word and token.value not in common:
            return "" if _DIGITS.search(token.value) else token.value
    return ""


def _matches(template: Tokens, texts: Sequence[str]) -> bool:
    return all(own == text or own is None or own == " " for own, text in zip(template, texts, strict=True))


def _similarity(template: Sequence[str | None], tokens: Sequence[_Token], common: frozenset[str]) -> float:
    """Return the fraction of distinguishing words that match the template; 1 if there are none."""
    words = [(own, token) for own, token in zip(template, tokens, strict=True) if token.is_word]
    telling = [pair for pair in words if pair[1].value not in common and not _DIGITS.search(pair[1].value)]
    compared = telling if len(telling) >= _MIN_COMPARED else words
    return sum(own == token.text for own, token in compared) / len(compared) if compared else 1.0
