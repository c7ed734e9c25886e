"""The tree over a vocabulary."""

import numpy as np
import pytest

from nextchar.models.text import symbol_tree as module
from nextchar.models.text.symbol_tree import symbol_tree
from nextchar.models.text.vocabulary import Vocabulary


def paths(children: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Return the nodes above each id, from the root on."""
    above: dict[int, tuple[int, ...]] = {0: ()}
    found = {}
    for node, pair in enumerate(children.tolist()):
        for child in pair:
            if child > 0:
                assert child > node, "children are after their parents"
                above[child] = (*above[node], node)
            else:
                found[-child] = (*above[node], node)
    return found


@pytest.mark.parametrize("merged", [256, 0])
@pytest.mark.parametrize("size", [2, 3, 4, 50])
def test_each_character_has_a_place(monkeypatch: pytest.MonkeyPatch, size: int, merged: int) -> None:
    monkeypatch.setattr(module, "MAX_MERGED", merged)
    ids = np.random.default_rng(0).integers(0, size, 500).astype(np.int32)  # some are unknown
    children = symbol_tree(ids, np.zeros(size, np.int32))
    assert children.shape == (size - 2, 2)
    if size > 2:
        assert sorted(paths(children)) == list(range(1, size))


def test_characters_of_similar_places_are_near_each_other() -> None:
    """Vowels are between consonants."""
    random, vowels, consonants = np.random.default_rng(0), "aeiou", "bdgklmnprst"
    text = "".join(random.choice(list(c)) for _ in range(5000) for c in (consonants, vowels))
    vocabulary = Vocabulary(text)
    found = paths(symbol_tree(vocabulary.encode(text), np.zeros(len(vocabulary), np.int32)))
    of_vowels = {found[i][:2] for i in vocabulary.encode(vowels).tolist()}
    of_consonants = {found[i][:2] for i in vocabulary.encode(consonants).tolist()}
    assert not of_vowels & of_consonants


def test_characters_that_follow_the_same_pairs_are_near_each_other() -> None:
    """The character before and the one after are alike for all six."""
    random, groups = np.random.default_rng(0), {"a": "pqr", "c": "stu"}
    text = "".join(c + "b" + random.choice(list(groups[c])) for c in random.choice(list(groups), 5000))
    vocabulary = Vocabulary(text)
    found = paths(symbol_tree(vocabulary.encode(text), np.zeros(len(vocabulary), np.int32)))
    of_first, of_second = ([found[i] for i in vocabulary.encode(group).tolist()] for group in groups.values())
    deepest = max(set.intersection(*map(set, of_first)))
    assert all(deepest not in path for path in of_second)


def test_large_vocabularies_are_split_at_half_of_the_weight() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(2000))
    vocabulary = Vocabulary(text)
    children = symbol_tree(vocabulary.encode(text), np.zeros(len(vocabulary), np.int32))
    assert max(map(len, paths(children).values())) <= 12
