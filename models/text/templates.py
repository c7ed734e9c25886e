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

The templates of a saved model: their file. JSON, because it is small and can be read by people.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import log2
from typing import Any, Self

from nextchar.models.text.events import Opener, fingerprint
from nextchar.models.text.json_file import json_record
from nextchar.models.text.line_tokens import (
    MIN_SIMILARITY,
    TemplateBuilder,
    TemplateTree,
    Token,
    Tokens,
    first_word,
    is_wildcard,
    matches,
    pattern,
    shape,
    similarity,
    structure_of_line,
    structure_of_template,
    tokenize,
)


@dataclass(frozen=True)
class Frequencies:
    """How often values occurred in `total` places; only the most frequent values are kept."""

    total: int
    kept: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counter[str], max_kept: int) -> Self:
        """Return the frequencies of counted values. Of equally frequent ones the first in order are kept."""
        kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_kept]
        return cls(counts.total(), dict(kept))

    def rarity(self, value: str) -> float:
        """Return -log2 of the probability that a value is at least as rare as this one."""
        return self.rarity_of_count(self.kept.get(value, 0))

    def rarity_of_count(self, count: int) -> float:
        """Return the rarity of a value that occurred so often."""
        return self._rarity.bits(count)

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


_COMMON = 0.9  # of the lines: words in more of them do not count as words in common
_MAX_COMPARED = 200  # templates with which a new line is compared
_MAX_VALUES = 32  # of a wildcard that are kept, the most frequent ones


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
class Slot:
    """A wildcard of a template.

    Attributes:
        values: its values in the training lines. shapes: their shapes (see `shape`).
    """

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
        return Template(pattern(self.tokens), self.count)


@dataclass(frozen=True)
class ParsedLine:
    """A line and its template.

    Attributes:
        template: the line's template; new if no training line had it.
        parameters: the values in place of its wildcards.
        template_bits: -log2 of the fraction of training lines whose template is as rare or rarer.
        parameter_bits: rarity of the rarest value among those of the same wildcard; 0 for a new template.
        fixed_fraction: the fraction of the line's tokens that are not values; 0 for a new template.
    """

    template: Template
    parameters: tuple[str, ...]
    template_bits: float
    parameter_bits: float
    fixed_fraction: float = 0.0


class Templates:
    """The templates of training lines. Immutable and thread-safe.

    Args:
        known: the templates.
        lines: how many training lines there were.
        unparsed: how many of them have no template, because there were too many templates.
        common: words in most lines.
        opener: says which lines open an event; None: each is one. What is called a line here is an event; if
            it has several lines, its tokens are those of its `fingerprint`.
    """

    def __init__(
        self,
        known: Sequence[KnownTemplate],
        *,
        lines: int,
        unparsed: int,
        common: frozenset[str],
        opener: Opener | None = None,
    ) -> None:
        self.known = tuple(known)
        self.lines, self.unparsed = lines, unparsed
        self.common, self.opener = common, opener
        by_count = Counter[int]()
        for one in known:
            by_count[one.count] += one.count
        if unparsed:
            by_count[1] += unparsed
        self._template_rarity = Rarity(lines, by_count)
        self._tree = TemplateTree()
        self._words = [
            self._tree.add(structure_of_template(one.tokens), one.first_word, index)
            for index, one in enumerate(known)
        ]

    @classmethod
    def fit(cls, lines: Iterable[str], opener: Opener | None = None) -> Self:
        """Return the templates of normal lines, which are masked like those that will be parsed."""
        counted = Counter(map(fingerprint, lines))
        total = counted.total()
        parsed = [(tokenize(line), count) for line, count in counted.items()]
        words = Counter[str]()
        for tokens, count in parsed:
            for word in {token.value for token in tokens if token.is_word}:
                words[word] += count
        not_empty = sum(count for tokens, count in parsed if tokens)
        common = frozenset(word for word, count in words.items() if count > _COMMON * not_empty)
        builder = TemplateBuilder(common)
        for tokens, _ in parsed:
            builder.add(tokens)
        # Once all wildcards are known, the lines are matched again: like lines to be scored.
        bare = [KnownTemplate(tokens, word, 0, ()) for tokens, word in builder.templates().items()]
        matcher = cls(bare, lines=total, unparsed=0, common=common)
        filled = [_TemplateCounts(one.tokens, one.first_word) for one in bare]
        unparsed = 0
        for tokens, count in parsed:
            index = matcher._match(tokens)
            if index is None:
                unparsed += count
            else:
                filled[index].add(tokens, count)
        known = [one.known() for one in filled if one.count]
        return cls(known, lines=total, unparsed=unparsed, common=common, opener=opener)

    @property
    def is_complete(self) -> bool:
        """Whether every training line has a template: whether there were not too many."""
        return not self.unparsed

    def word_of(self, index: int) -> str:
        """Return the first word by which the tree finds a template; "": any."""
        return self._words[index]

    def rarity_of_count(self, count: int) -> float:
        """Return the rarity of a template that so many training lines have, in bits."""
        return self._template_rarity.bits(count)

    def template_of(self, line: str) -> Template:
        """Return the template of a masked line. Every text has one."""
        return self.parse(line).template

    def parse(self, line: str) -> ParsedLine:
        """Return the template, values and rarities of a masked line."""
        tokens = tokenize(fingerprint(line))
        index = self._match(tokens)
        if index is not None:
            known = self.known[index]
            values = [
                token.value for token, own in zip(tokens, known.tokens, strict=True) if is_wildcard(own)
            ]
            rarest = max(
                (slot.rarity(value) for slot, value in zip(known.slots, values, strict=True)), default=0.0
            )
            rarity = self.rarity_of_count(known.count)
            fixed = 1 - len(values) / max(1, len(tokens))
            return ParsedLine(known.template, tuple(values), rarity, rarest, fixed)
        new = self._generalized(tokens)
        values = [token.value for token, own in zip(tokens, new, strict=True) if is_wildcard(own)]
        rarity = self.rarity_of_count(0)
        return ParsedLine(Template(pattern(new), 0), tuple(values), rarity, 0.0)

    def _match(self, tokens: Sequence[Token]) -> int | None:
        """Return the template that the tokens match; of several the one with the fewest wildcards."""
        texts = [token.text for token in tokens]
        matching = [i for i in self._leaf(tokens) if matches(self.known[i].tokens, texts)]
        return min(matching, key=lambda i: (sum(map(is_wildcard, self.known[i].tokens)), i), default=None)

    def _generalized(self, tokens: Sequence[Token]) -> Tokens:
        """Return the tokens with the wildcards of the most similar known template."""
        leaf = self._leaf(tokens) or self._tree.of_structure(structure_of_line(tokens))
        nearest = max(
            ((similarity(self.known[i].tokens, tokens, self.common), -i) for i in leaf[:_MAX_COMPARED]),
            default=(0.0, 0),
        )
        if nearest[0] < MIN_SIMILARITY:
            return tuple(token.wildcard if token.is_value else token.text for token in tokens)
        own = self.known[-nearest[1]].tokens
        return tuple(
            token.wildcard if token.is_value or is_wildcard(other) else token.text
            for token, other in zip(tokens, own, strict=True)
        )

    def _leaf(self, tokens: Sequence[Token]) -> Sequence[int]:
        return self._tree.leaf(structure_of_line(tokens), first_word(tokens, self.common))


@dataclass
class _TemplateCounts:
    """Counts the lines of a template and the values of its wildcards."""

    tokens: Tokens
    first_word: str
    count: int = 0
    values: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, tokens: Sequence[Token], count: int) -> None:
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


FILE = "templates.json"
"""The name of its file in a saved model. Older and imported models may have none."""

FORMAT_VERSION = 1

MAX_CHARACTERS = 1_000_000
"""Maximum number of characters, at the end of the training text, as for the n-grams."""


def last_lines(text: str) -> list[str]:
    """Return the complete lines at the end of a training text, of which templates are made."""
    lines = text[-MAX_CHARACTERS:].split("\n")[:-1]
    return lines[1:] if len(text) > MAX_CHARACTERS else lines


def dump(templates: Templates) -> bytes:
    """Return the contents of FILE."""
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "lines": templates.lines,
        "unparsed": templates.unparsed,
        "common": sorted(templates.common),
        "templates": [
            {
                "tokens": known.tokens,
                "first_word": known.first_word,
                "count": known.count,
                "slots": [[_frequencies(slot.values), _frequencies(slot.shapes)] for slot in known.slots],
            }
            for known in templates.known
        ],
    }
    if templates.opener:
        record["opener"] = templates.opener.dump()
    return json.dumps(record).encode()  # ASCII: text may contain half of a surrogate pair


def load(data: bytes) -> Templates:
    """Return the templates in the contents of FILE.

    Raises:
        Unavailable: it is damaged (code `model_damaged`), or of a format that this program does not know
            (`model_format_unknown`).
    """
    with json_record(data, FILE, FORMAT_VERSION) as record:
        return Templates(
            [_known(one) for one in record["templates"]],
            lines=_count(record["lines"]),
            unparsed=_count(record["unparsed"]),
            common=frozenset(map(_text, record["common"])),
            opener=Opener.load(record["opener"]) if "opener" in record else None,
        )


def _known(record: dict[str, Any]) -> KnownTemplate:
    tokens = tuple(None if token is None else _text(token) for token in record["tokens"])
    slots = tuple(Slot(_loaded(values), _loaded(shapes)) for values, shapes in record["slots"])
    if len(slots) != sum(map(is_wildcard, tokens)):
        raise ValueError("a wildcard has no values")
    return KnownTemplate(tokens, _text(record["first_word"]), _count(record["count"]), slots)


def _frequencies(one: Frequencies) -> Sequence[Any]:
    return [one.total, dict(one.kept)]


def _loaded(record: Sequence[Any]) -> Frequencies:
    total, kept = record
    counts = {_text(value): _count(count) for value, count in kept.items()}
    if sum(counts.values()) > _count(total):
        raise ValueError("counts do not add up")
    return Frequencies(total, counts)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a count is not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a token is not a text")
    return value
