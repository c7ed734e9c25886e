"""Splits a line of a log into tokens, words, values and delimiters, and shows tokens as a pattern.

The parse tree of templates, and how templates are made of lines that are added one after the other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

WILDCARD = "<*>"
"""Stands for a value in a pattern."""

MAX_TOKENS = 128
"""Maximum number of tokens of a line; the rest counts as one value."""

_MAX_TOKEN_CHARACTERS = 64  # a longer word is a value

_DELIMITERS = re.escape("=,;&|?()[]{}<>\"':")
_TOKEN = re.compile(rf"(\s*)(?:([^\s{_DELIMITERS}]+)|([{_DELIMITERS}]+))")
_HEX = re.compile(r"(?:0[xX])?(?=\D*\d)[0-9A-Fa-f][-0-9A-Fa-f]{5,}|0[xX][0-9A-Fa-f]+")  # and UUIDs
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")

Tokens = tuple[str | None, ...]
"""A template's tokens, each with the space before it; None for a wildcard without a space, " " with one."""


@dataclass(frozen=True)
class Token:
    """A word, a value or delimiters of a line."""

    text: str  # with one space before it, if there was any
    is_word: bool
    is_value: bool  # a number, a masked value, or very long
    start: int = 0  # position in the line, without the space before it
    end: int = 0

    @property
    def value(self) -> str:
        """The text without the space before it."""
        return self.text.removeprefix(" ")

    @property
    def has_digit(self) -> bool:
        """Whether there is a digit in it."""
        return _DIGITS.search(self.text) is not None

    @property
    def wildcard(self) -> str | None:
        """What stands for it in a template if it is a value: see `Tokens`."""
        return " " if self.text.startswith(" ") else None


@lru_cache(maxsize=1 << 14)
def shape(value: str) -> str:
    """Return a value with each run of letters as one `a` and each run of digits as one `0`.

    >>> shape("core.2275"), shape("10.0.0.1")
    ('a.0', '0.0.0.0')
    """
    return _DIGITS.sub("0", _LETTERS.sub("a", value[:_MAX_TOKEN_CHARACTERS]))


def tokenize(line: str) -> list[Token]:
    """Return the tokens of a line."""
    tokens, end = [], 0
    line = line.rstrip()  # from each of many final spaces, `\s*` would search to the end again
    for match in islice(_TOKEN.finditer(line), MAX_TOKENS):
        space, word, delimiters = match.groups()
        end = match.end()
        text = word or delimiters
        is_value = bool(word) and _is_value(word)
        tokens.append(
            Token(
                (" " if space else "") + (text if is_value else text[:_MAX_TOKEN_CHARACTERS]),
                bool(word) and not is_value,
                is_value,
                end - len(text),
                end,
            )
        )
    if rest := line[end:].strip():
        tokens.append(Token(rest, is_word=False, is_value=True))
    return tokens


def _is_value(word: str) -> bool:
    if len(word) > _MAX_TOKEN_CHARACTERS:
        return True
    return not _LETTERS.search(word) or bool(_HEX.fullmatch(word))


def is_wildcard(token: str | None) -> bool:
    """Return whether a token of a template is a wildcard."""
    return token in {None, " "}


def pattern(tokens: Tokens) -> str:
    """Return a template as text, with WILDCARD for values."""
    return "".join((token or "") + WILDCARD if is_wildcard(token) else str(token) for token in tokens)


def structure_of_line(tokens: Sequence[Token]) -> str:
    """Return where words, delimiters and spaces are. Letters stand for words, so no word can forge it."""
    return "".join(
        (" " if token.text.startswith(" ") else "") + "w" if token.is_word or token.is_value else token.text
        for token in tokens
    )


def structure_of_template(tokens: Tokens) -> str:
    """Return the `structure_of_line` of the lines that match a template."""
    return "".join(
        (token or "") + "w" if is_wildcard(token) else _word_structure(str(token)) for token in tokens
    )


def _word_structure(token: str) -> str:
    return token if _is_delimiters(token) else (" w" if token.startswith(" ") else "w")


def _is_delimiters(token: str) -> bool:
    found = _TOKEN.match(token)
    return found is not None and found[3] is not None


def first_word(tokens: Sequence[Token], common: frozenset[str]) -> str:
    """Return the first word that is not common; "" if it has digits, or there is none."""
    for i, token in enumerate(tokens):
        if i and not token.text.startswith(" "):  # not after a delimiter, as values are
            continue
        if token.is_word and token.value not in common:
            return "" if token.has_digit else token.value
    return ""


def matches(template: Tokens, texts: Sequence[str]) -> bool:
    """Return whether as many texts of tokens match a template."""
    return all(own == text or own is None or own == " " for own, text in zip(template, texts, strict=True))


MAX_TEMPLATES = 2_000
"""More are not made: further training lines without a template are only counted (`Templates.unparsed`)."""

_MAX_LEAF = 50  # templates; further lines join the most similar one
_MAX_CHILDREN = 100  # first words per structure; further ones share a leaf
MIN_SIMILARITY = 0.5  # share of the words in common
_MIN_COMPARED = 2  # words; if fewer are neither common nor have digits, all words are compared


class TemplateTree:
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


class TemplateBuilder:
    """Makes templates of lines that are added one after the other."""

    def __init__(self, common: frozenset[str]) -> None:
        self._common = common
        self._tree = TemplateTree()
        self._templates: list[list[str | None]] = []
        self._words: list[str] = []

    def add(self, tokens: Sequence[Token]) -> int | None:
        """Add a line to the most similar template or as a new one; return its index, None if it has none."""
        structure, word = structure_of_line(tokens), first_word(tokens, self._common)
        leaf = self._tree.leaf(structure, word)
        best, highest = -1, -1.0
        for index in leaf:
            own = similarity(self._templates[index], tokens, self._common)
            if own > highest:
                best, highest = index, own
        if highest >= MIN_SIMILARITY or len(leaf) >= _MAX_LEAF:
            template = self._templates[best]
            for i, token in enumerate(tokens):
                if template[i] != token.text:
                    template[i] = token.wildcard
            return best
        if len(self._templates) < MAX_TEMPLATES:
            self._words.append(self._tree.add(structure, word, len(self._templates)))
            self._templates.append([token.wildcard if token.is_value else token.text for token in tokens])
            return len(self._templates) - 1
        return None

    def fixed_fraction(self, index: int) -> float:
        """Return the fraction of a template's tokens that are not wildcards."""
        template = self._templates[index]
        return 1 - sum(map(is_wildcard, template)) / max(1, len(template))

    def templates_in_order(self) -> list[tuple[Tokens, str]]:
        """Return the templates by index, with the words under which the tree has them, for `restore`."""
        return [(tuple(own), word) for own, word in zip(self._templates, self._words, strict=True)]

    def restore(self, templates: Sequence[tuple[Tokens, str]]) -> None:
        """Add templates that another builder had, in their order."""
        for tokens, word in templates:
            self._words.append(self._tree.add(structure_of_template(tokens), word, len(self._templates)))
            self._templates.append(list(tokens))

    def templates(self) -> dict[Tokens, str]:
        """Return the templates, each once, with their first words."""
        found: dict[Tokens, str] = {}
        for template, word in zip(self._templates, self._words, strict=True):
            found[tuple(template)] = word if found.get(tuple(template), word) == word else ""
        return found


def similarity(template: Sequence[str | None], tokens: Sequence[Token], common: frozenset[str]) -> float:
    """Return the fraction of distinguishing words that match the template; 1 if there are none."""
    words = [(own, token) for own, token in zip(template, tokens, strict=True) if token.is_word]
    telling = [pair for pair in words if pair[1].value not in common and not pair[1].has_digit]
    compared = telling if len(telling) >= _MIN_COMPARED else words
    return sum(own == token.text for own, token in compared) / len(compared) if compared else 1.0
