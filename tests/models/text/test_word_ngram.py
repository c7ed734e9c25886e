"""n-grams of words: what is rare in a place, and their file."""

import numpy as np
import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.text import word_ngram
from nextchar.models.text.word_ngram import WordNgrams

TRACES = "3 4 6 6 9\n3 4 6 9\n3 5 6 6 9\n" * 40
TRACED = WordNgrams.fit(TRACES)


def test_words_in_another_order_are_rarer() -> None:
    known, swapped, new = TRACED.read(["3 4 6 9", "3 6 4 9", "3 4 8 9"])
    assert known.bits.shape == (5,)  # four words and the end
    assert swapped.bits.max() > 5 > known.bits.max()
    assert new.bits.argmax() == 2 and new.unknown == ((4, 5),) and not known.unknown


def test_an_unknown_word_is_as_rare_as_its_place_makes_it() -> None:
    text = "".join(f"user u{i} logged in\n" for i in range(300))
    varying, fixed = WordNgrams.fit(text).read(["user root logged in", "user u1 logged out"])
    assert varying.unknown == ((5, 9),) and fixed.unknown == ((15, 18),)
    assert varying.bits[1] + 4 < fixed.bits[3]


def test_a_line_is_read_by_itself() -> None:
    lines = ["3 4 6 9", "", "9 9 9 !", "3 5"]
    together, alone = TRACED.read(lines), [TRACED.read([line])[0] for line in lines]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.bits, other.bits)
    assert [len(line.bits) for line in together] == [5, 1, 5, 3]
    assert TRACED.read([]) == []


@pytest.mark.parametrize("text", [TRACES, "", "\n\n", "one"])
def test_a_file_reads_as_what_was_written(text: str) -> None:
    model = WordNgrams.fit(text)
    loaded = word_ngram.load(word_ngram.dump(model))
    lines = ["3 4 6 9", "one", "unknown words", ""]
    for one, other in zip(model.read(lines), loaded.read(lines), strict=True):
        np.testing.assert_array_equal(one.bits, other.bits)


def test_the_most_frequent_words_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ngram, "MAX_WORDS", 2)
    model = WordNgrams.fit("a b c\na b\na\n")
    assert model.words == ["a", "b"]
    assert model.read(["a b c"])[0].unknown == ((4, 5),)


def _damaged() -> list[bytes]:
    good = word_ngram.arrays_of(TRACED.counts)
    words = np.frombuffer("\n".join(TRACED.words).encode(), np.uint8)
    return [
        b"",
        word_ngram.packed(good),
        word_ngram.packed({**good, "words": np.frombuffer(b"a\na", np.uint8)}),
        word_ngram.packed({**good, "words": words[:1]}),  # n-grams of words that are not there
        word_ngram.packed({**good, "words": np.frombuffer(b"\xff\xfe", np.uint8)}),
        word_ngram.packed({**good, "words": words, "grams_1": -good["grams_1"]}),
        word_ngram.packed({"words": words}),
    ]


@pytest.mark.parametrize("data", _damaged())
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(Unavailable, match=r"word_ngram\.npz is damaged"):
        word_ngram.load(data)
