"""Copies are found where they were planted, and only there."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from nextchar.models.report import Memorization
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker import memorization
from nextchar.worker.memorization import Withheld, copies, generate, measure, measure_withheld

V = 27
VOCABULARY = Vocabulary("abcdefghijklmnopqrstuvwxyz")
TEXT = np.random.default_rng(1).integers(1, V, 5000).astype(np.int32)


def _naive_match(row: NDArray[np.int32], train: NDArray[np.int32]) -> int:
    """The length of the longest beginning of `row` that stands anywhere in `train`."""
    length = 0
    while length < len(row) and any(
        np.array_equal(train[i : i + length + 1], row[: length + 1]) for i in range(len(train) - length)
    ):
        length += 1
    return length


_READS = 5


class Fake:
    """Follows a text: expects what comes there after the last characters it read, by `certainty` logits.

    Its state is those characters.
    """

    def __init__(self, text: NDArray[np.int32], certainty: float, size: int = V) -> None:
        self.V, self._certainty = size, certainty
        windows = np.lib.stride_tricks.sliding_window_view(text, _READS + 1).tolist()
        self._next = {tuple(window[:-1]): window[-1] for window in windows}

    def initial_state(self, rows: int = 1) -> NDArray[np.float32]:
        return np.zeros((rows, _READS), np.float32)

    def step(
        self, ids: NDArray[np.int32], state: NDArray[np.float32], first: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits = []
        for row in ids:
            state = np.concatenate([state[:, 1:], row[:, None].astype(np.float32)], 1)
            known = np.zeros((len(row), self.V), np.float32)
            for b, context in enumerate(state.astype(int).tolist()):
                if (following := self._next.get(tuple(context))) is not None:
                    known[b, following] = self._certainty
            logits.append(known)
        return np.stack(logits[first:]), state


def _measured(network: Fake, held_out: NDArray[np.int32]) -> Memorization:
    return measure(network, TEXT, held_out, decode=VOCABULARY.decode, seed=1, seconds=20)


@pytest.mark.parametrize("size", [V, 300, 70_000])
def test_lengths_of_copies_are_those_of_a_search_by_hand(size: int) -> None:
    rng = np.random.default_rng(2)
    train = rng.integers(1, 4, 120).astype(np.int32) + (size - 4)
    row = rng.integers(1, 4, 40).astype(np.int32) + (size - 4)
    lengths, offsets, searched = memorization._matches([row], train, size, None)
    assert searched == len(train)
    for i, (length, offset) in enumerate(zip(lengths[0], offsets[0], strict=True)):
        assert length == _naive_match(row[i:], train)
        np.testing.assert_array_equal(row[i : i + length], train[offset : offset + length])


def test_a_planted_passage_is_found_with_its_offset_and_length() -> None:
    rng = np.random.default_rng(3)
    row = rng.integers(1, V, 600).astype(np.int32)
    row[100:180] = TEXT[2000:2080]
    (found,), _ = copies([[row, rng.integers(1, V, 50).astype(np.int32)]], TEXT, size=V)
    first = found.passages[0]
    assert 80 <= first.length <= 84  # a neighbour may happen to agree
    assert first.start <= 100 and first.row == 0
    np.testing.assert_array_equal(
        row[first.start : first.start + first.length], TEXT[first.offset : first.offset + first.length]
    )
    assert found.longest == first.length
    assert found.copied == pytest.approx(first.length / 650)
    assert found.novel[8] == pytest.approx(1 - 73 / (593 + 43), abs=0.01)
    assert found.passages[1].length < 10


def test_passages_are_found_across_the_blocks_that_a_huge_text_is_sorted_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memorization, "_BLOCK_BYTES", 700)
    rows = [TEXT[at : at + 300] for at in (0, 650, 690, 1234, 4700)]
    (found,), searched = copies([rows], TEXT, size=V)
    assert (found.copied, found.longest, searched) == (1.0, 300, len(TEXT))
    assert found.novel == dict.fromkeys(memorization.NOVEL_LENGTHS, 0.0)


def test_a_search_that_runs_out_of_time_reports_how_much_it_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "_BLOCK_BYTES", 700)
    _, searched = copies([[TEXT[:50]]], TEXT, size=V, deadline=0.0)
    assert searched == 700


def test_a_memorizing_network_copies_and_a_random_one_does_not() -> None:
    rng = np.random.default_rng(4)
    held_out = rng.integers(1, V, 3000).astype(np.int32)
    for place in range(0, 3000, 375):  # the prompts end with what a follower can go on from
        held_out[place + 90 : place + 100] = TEXT[2000:2010]
    parrot = _measured(Fake(TEXT, 12.0), held_out)
    assert parrot["verdict"] == "copies"
    assert parrot["repeated"]["training"] > 0.9
    assert parrot["repeated"]["held_out"] == 0.0
    assert parrot["generated"][1]["longest"] > 100
    guesser = _measured(Fake(TEXT, 0.0), held_out)
    assert guesser["verdict"] == "novel"
    assert guesser["generated"][0]["longest"] < 10
    assert guesser["generated"][0]["novel"]["8"] > 0.99
    assert guesser["repeated"]["training"] == 0.0


def test_generated_text_is_reproducible_and_never_has_the_unknown_character() -> None:
    prompts = TEXT[:12].reshape(4, 3)
    network = Fake(TEXT, 2.0)
    texts = [generate(network, prompts, characters=40, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (texts[0] != texts[2]).any()
    assert texts[0].shape == (40, 3)
    assert texts[0].min() > 0
    short = generate(network, prompts, characters=40, temperature=1.0, seed=1, deadline=0.0)
    assert len(short) == 1


def test_held_out_prose_is_mostly_novel_and_quotations_are_found(real_text: Callable[[str], str]) -> None:
    text = real_text("tinyshakespeare.txt")
    vocabulary = Vocabulary(text)
    ids = vocabulary.encode(text)
    train, rest = ids[:900_000], ids[900_000:905_000].copy()
    rest[1000:1200] = train[70_000:70_200]
    (found,), _ = copies([[rest]], train, size=len(vocabulary))
    assert found.passages[0].length >= 200
    assert found.copied == pytest.approx(0.04, abs=0.01)
    assert found.novel[32] > 0.95
    assert found.novel[4] < 0.1


def _with_lines(*known: str) -> tuple[Fake, Vocabulary]:
    vocabulary = Vocabulary("\nabcdefghijklmnopqrstuvwxyz")
    return Fake(vocabulary.encode("\n" + "\n".join(known) + "\n"), 20.0, len(vocabulary)), vocabulary


def test_withheld_lines_that_the_network_knows_are_counted_and_whether_the_filter_hides_them() -> None:
    network, vocabulary = _with_lines("annatallwindow", "bobslongersecret", "common")
    lines = ["annatallwindow", "bobslongersecret", "neverreadanywhere", "x", "annasbigother"]
    hides_one = Withheld(lines, lambda line: line.startswith("anna"))
    measured = measure_withheld(network, hides_one, vocabulary, seconds=60)
    assert measured == {"lines": 5, "probed": 4, "completed": 0.5, "suggested": 0.25}


def test_no_more_than_some_withheld_lines_are_probed_and_not_beyond_the_time() -> None:
    network, vocabulary = _with_lines("some")
    many = Withheld(["ab"] * 1000, lambda _: True)
    assert measure_withheld(network, many, vocabulary, seconds=60)["probed"] == 63
    assert measure_withheld(network, many, vocabulary, seconds=0)["probed"] == 0
    assert measure_withheld(network, Withheld(["a"], lambda _: True), vocabulary, seconds=60)["probed"] == 0
