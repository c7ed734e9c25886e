"""Prefixes with a typing error, read by networks whose answers are obvious."""

import itertools
import string

import numpy as np
import pytest

from nextchar.models.runtime.corrections import Start, likely_starts
from nextchar.models.runtime.decoding import log_softmax

LETTERS = "\n" + string.ascii_lowercase + " "
V = len(LETTERS) + 1
WORDS = ("hotels in london", "hotels in paris", "weather", "britney")
FEW_BITS, MANY_BITS = 9.0, 13.0


class Dictionary:
    """A network that knows a few texts: what goes on like one of them is likely, everything else is not.

    Its state is the index of what it has read.
    """

    V = V

    def __init__(self) -> None:
        self.texts = [""]
        self.read = 0  # characters

    def initial_state(self, rows: int = 1) -> np.ndarray:
        return np.zeros((rows, 1), np.float32)

    def logits(self, text: str) -> np.ndarray:
        row = np.zeros(V, np.float32)
        last = text.rpartition("\n")[2]
        for word in WORDS:
            if word.startswith(last) and len(word) > len(last):
                row[1 + LETTERS.index(word[len(last)])] = 9.0
        return row

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((*ids.shape, V), np.float32)
        state = state.copy()
        for t, b in itertools.product(range(len(ids)), range(ids.shape[1])):
            self.texts.append(self.texts[int(state[b, 0])] + LETTERS[ids[t, b] - 1])
            state[b, 0] = len(self.texts) - 1
            logits[t, b] = self.logits(self.texts[-1])
        self.read += ids.size
        return logits[first:], state

    def bits(self, text: str) -> float:
        rows = (log_softmax(self.logits(text[:i])[None])[0, LETTERS.index(c)] for i, c in enumerate(text))
        return -float(sum(rows)) / float(np.log(2))


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(1 + LETTERS.index(c) for c in text)


def starts(network: Dictionary, typed: str, *respelled: str) -> list[Start]:
    logits, state = network.step(np.array([[1]], np.int32), network.initial_state())
    search = likely_starts(
        network,
        logits[0, 0],
        state,
        np.array(ids_of(typed), np.int32),
        never=frozenset([1]),
        respelled=map(ids_of, respelled),
    )
    while True:
        try:
            next(search)
        except StopIteration as end:
            found: list[Start] = end.value
            return found


def text_of(start: Start) -> str:
    return "".join(LETTERS[i - 1] for i in start.ids)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("hotles in l", "hotels in l"),  # exchanged
        ("hotls in l", "hotels in l"),  # left out
        ("hoteels in l", "hotels in l"),  # one too many
        ("hotwls in l", "hotels in l"),  # wrong
        ("xeather", "weather"),  # at the first
        ("brritn", "britn"),
        ("hotels ni ", "hotels in "),
    ],
)
def test_what_is_meant_is_likelier_than_what_is_typed(typed: str, meant: str) -> None:
    exact, best, *_ = starts(Dictionary(), typed)
    assert (text_of(exact), text_of(best)) == (typed, meant)
    assert best.total > exact.total


def test_prefix_that_is_expected_is_read_as_it_is() -> None:
    network = Dictionary()
    (exact,) = starts(network, "hotels in l")
    assert text_of(exact) == "hotels in l"
    assert exact.total == 0.0
    assert network.read < 4 * len("hotels in l")


@pytest.mark.parametrize(
    ("typed", "is_likely"), [("wether", False), ("hotwls in l", False), ("britnei", True)]
)
def test_shares_are_those_of_comparing_all_edits(typed: str, *, is_likely: bool) -> None:
    network = Dictionary()
    found = {text_of(start): start.total / np.log(2) for start in starts(network, typed)}
    costs = {typed: 0.0}
    letters = LETTERS[1:]
    for i, c in itertools.product(range(len(typed)), letters):
        costs.setdefault(typed[:i] + c + typed[i:], FEW_BITS)
        costs.setdefault(typed[:i] + c + typed[i + 1 :], MANY_BITS)
        costs.setdefault(typed[:i] + typed[i + 1 :], MANY_BITS)
    bits = {text: network.bits(text) + cost for text, cost in costs.items()}
    best, *others = sorted(found.keys() - {typed}, key=found.__getitem__, reverse=True)
    assert best == min(bits.keys() - {typed}, key=bits.__getitem__)
    for other in others:
        assert found[best] - found[other] == pytest.approx(bits[other] - bits[best], abs=1e-4)
    assert sum(2.0**total for total in found.values()) == pytest.approx(1.0)
    share = 2.0 ** -bits[typed] / sum(2.0 ** -bits[text] for text in found)
    assert is_likely == (share > 1 / 17)
    # It may be a word that is new, however much likelier the others are.
    assert 2.0 ** found[typed] == pytest.approx(max(share, 1 / 17))


def test_states_are_those_after_each_prefix() -> None:
    network = Dictionary()
    for start in starts(network, "hotles"):
        assert network.texts[int(start.state[0, 0])] == "\n" + text_of(start)
        expected = log_softmax(network.logits(text_of(start))[None])[0]
        assert start.logprobs == pytest.approx(expected)


@pytest.mark.parametrize("typed", ["q", "zz", "qqqqqqqq"])
def test_typed_text_that_nothing_resembles_is_kept(typed: str) -> None:
    exact, *others = starts(Dictionary(), typed)
    assert text_of(exact) == typed
    assert "\n" not in "".join(map(text_of, others))


def test_respelled_prefix_is_compared_with_those_that_are_found() -> None:
    typed, meant = "htoels ni l", "hotels in l"  # two errors, of which none is looked for
    assert meant not in map(text_of, starts(Dictionary(), typed))
    _, best, *_ = starts(Dictionary(), typed, meant, "htoels in l")
    assert text_of(best) == meant
    once = {text_of(start): start.total for start in starts(Dictionary(), "hotles in l")}
    again = {text_of(start): start.total for start in starts(Dictionary(), "hotles in l", meant)}
    assert again == once
