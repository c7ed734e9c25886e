"""The parse tree of templates, and how templates are made of lines that are added one after the other."""

from collections.abc import Sequence
from itertools import chain

from nextchar.models.text.line_tokens import Token, Tokens, first_word, structure_of_line

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

    def tokens(self, index: int) -> Tokens:
        """Return the tokens of a template as they are now."""
        return tuple(self._templates[index])

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
