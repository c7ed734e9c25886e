"""The file of a model's n-grams."""

import io

import numpy as np
import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text.vocabulary import Vocabulary

TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 20
VOCABULARY = Vocabulary(TEXT)
COUNTED = ngram_file.ngram_of(VOCABULARY.encode(TEXT), VOCABULARY)
LINES = ["the cat sat on the log", "", "zzz", "a mat on a log"]


def test_file_survives_a_round_trip() -> None:
    again = ngram_file.load(ngram_file.dump(COUNTED), VOCABULARY)
    for a, b in zip(again.surprisals(LINES), COUNTED.surprisals(LINES), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ngram_file.dump(again) == ngram_file.dump(COUNTED)


def test_number_of_counted_characters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_file, "MAX_CHARACTERS", 60)  # not a multiple of the text's period
    ids = VOCABULARY.encode(TEXT)
    counted = ngram_file.dump(ngram_file.ngram_of(ids, VOCABULARY))
    assert counted == ngram_file.dump(ngram_file.ngram_of(ids[-60:], VOCABULARY))
    assert counted != ngram_file.dump(ngram_file.ngram_of(ids[:60], VOCABULARY))


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_damaged_files_are_refused(cut: int) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        ngram_file.load(ngram_file.dump(COUNTED)[:cut], VOCABULARY)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"grams_1": np.array([3, -1]), "counts_1": np.array([1, 1])},
        {"grams_1": np.array([1, 900]), "counts_1": np.array([1, 1])},
        {"grams_1": np.array([1]), "counts_1": np.array([-1])},
        {"grams_1": np.array([1]), "counts_1": np.array([1, 2])},
        {"grams_1": np.array([1]), "other": np.array([1])},
    ],
)
def test_impossible_counts_are_refused(arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    with pytest.raises(Unavailable, match="damaged"):
        ngram_file.load(file.getvalue(), VOCABULARY)
