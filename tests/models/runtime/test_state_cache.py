import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.runtime.state_cache import CHUNK, OVERHEAD_BYTES, STRIDE, PrefixMatch, StateCache

S = 3


class NaiveCache:
    """The reference: a dictionary of every prefix that was inserted."""

    def __init__(self) -> None:
        self.states: dict[str, np.ndarray] = {}

    def match(self, text: str) -> int:
        return max((len(known) for known in self.states if text.startswith(known)), default=0)


def state_of(text: str) -> np.ndarray:
    """A state that identifies its text."""
    return np.array([len(text), hash(text) % 9973, hash(text[::-1]) % 9973], np.float32)


def read(cache: StateCache, text: str, naive: NaiveCache | None = None) -> PrefixMatch:
    """Insert every chunk and the end of a text, as prefill does."""
    match = cache.match(text)
    start = match.length
    for at in [*range(CHUNK, len(text), CHUNK), len(text)]:
        if at > start:
            cache.insert(match, text, at, state_of(text[:at]))
            if naive is not None:
                naive.states[text[:at]] = state_of(text[:at])
    return match


def document(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh "), length))


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Texts that are prefixes, continuations and edits of each other."""
    base = document(draw(st.integers(0, 300)), draw(st.integers(0, 3)))
    texts = []
    for _ in range(draw(st.integers(1, 12))):
        cut = draw(st.integers(0, len(base)))
        base = base[:cut] + document(draw(st.integers(0, 150)), draw(st.integers(0, 3)))
        texts.append(base)
    return texts


@settings(deadline=None, max_examples=150)
@given(families())
def test_unbounded_cache_matches_what_a_dictionary_matches(texts: list[str]) -> None:
    cache, naive = StateCache(1 << 30), NaiveCache()
    for text in texts:
        match = cache.match(text)
        assert match.length == naive.match(text)
        if match.length:
            assert match.state is not None
            np.testing.assert_array_equal(match.state, state_of(text[: match.length]))
        read(cache, text, naive)
        assert cache.match(text).length == len(text)


@pytest.mark.parametrize("length", [STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE + 70])
def test_long_documents_are_matched_across_strides(length: int) -> None:
    cache, text = StateCache(1 << 30), document(length)
    read(cache, text)
    assert cache.match(text + "more").length == length
    edited = text[: length - 100] + "X" + text[length - 99 :]
    assert cache.match(edited).length == (length - 100) // CHUNK * CHUNK


def test_least_recently_used_is_evicted_first() -> None:
    cache = StateCache(2 * (OVERHEAD_BYTES + 4 * 2 + 4 * S))
    for text in ("aa", "bb"):
        read(cache, text)
    cache.match("aa")
    read(cache, "cc")
    assert [cache.match(text).length for text in ("aa", "bb", "cc")] == [2, 0, 2]
    assert cache.evictions == 1


def test_document_in_use_is_not_evicted_by_many_others() -> None:
    cache = StateCache(60 * (OVERHEAD_BYTES + 4 * CHUNK + 4 * S))
    mine = document(1000)
    read(cache, mine)
    for other in range(1, 200):
        mine += "a"
        assert cache.match(mine).length == len(mine) - 1
        read(cache, mine)
        read(cache, document(300, seed=other))


def test_cleared_cache_keeps_no_references_without_garbage_collection() -> None:
    cache = StateCache(1 << 20)
    text = "ab" * 200
    match = cache.match(text)
    for at in range(CHUNK, len(text), CHUNK):
        cache.insert(match, text, at, np.zeros(4, np.float32))
    del match
    assert cache.entries == 6
    gc.disable()
    try:
        kept = weakref.ref(cache._roots[""].children[text[:CHUNK]].state)
        cache.clear()
        assert kept() is None
    finally:
        gc.enable()
    assert (cache.bytes, cache.entries, cache.match(text).length) == (0, 0, 0)


def test_nothing_is_matched_that_another_owner_has_read() -> None:
    cache, text = StateCache(1 << 20), document(CHUNK + 30)
    mine = cache.match(text, "me")
    for at in (CHUNK, len(text)):
        cache.insert(mine, text, at, state_of(text[:at]))
    assert cache.match(text, "me").length == len(text)
    assert cache.match(text, "you").length == cache.match(text).length == 0


def test_owner_whose_entries_are_evicted_is_forgotten_and_can_return() -> None:
    cache = StateCache(2 * (OVERHEAD_BYTES + 4 * CHUNK + 4 * S))
    match, text = cache.match("x" * 2 * CHUNK, "old"), "x" * 2 * CHUNK
    cache.insert(match, text, CHUNK, state_of(text[:CHUNK]))
    for number in range(1000):
        other = document(CHUNK)
        cache.insert(cache.match(other, f"owner {number}"), other, CHUNK, state_of(other))
    assert len(cache._roots) == cache.entries == 2
    again = cache.match(text, "old")
    assert again.length == 0
    for reading in (again, cache.match(text, "old")):
        cache.insert(reading, text, CHUNK, state_of(text[:CHUNK]))
    assert cache.match(text, "old").length == CHUNK and cache.entries == 2
