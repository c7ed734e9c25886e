"""The n-grams of a model: their surprisal, and its weight in the score."""

import itertools

import numpy as np
import pytest

from models.anomaly import ngram_surprisal
from models.anomaly.aggregate import NGRAM_STATISTICS, STATISTICS, statistics
from models.anomaly.calibration import NETWORK_WEIGHT, calibrate
from models.anomaly.calibration_format import dump, load
from models.runtime.surprisal import LineSurprisal
from models.text import ngram_file
from models.text.ngram import NgramModel
from models.text.vocabulary import Vocabulary
from tests.models.anomaly.surprisals import surprisal

TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 20
VOCABULARY = Vocabulary(TEXT)
COUNTED = ngram_file.ngram_of(VOCABULARY.encode(TEXT), VOCABULARY)
LINES = ["the cat sat on the log", "", "zzz", "a mat on a log"]


def surprisals(lines: list[str], *, bits: float) -> list[LineSurprisal]:
    """Surprisal by a network for which every character and newline costs `bits`."""
    return ngram_surprisal.with_ngram(
        [surprisal([bits] * len(line), end=bits) for line in lines], lines, COUNTED
    )


def test_bits_are_those_of_the_line_and_its_newline() -> None:
    [one] = surprisals(["the cat"], bits=1.0)
    expected = NgramModel.fit(TEXT, order=ngram_file.ORDER).surprisal("the cat\n")
    np.testing.assert_allclose(one.ngram_bits, expected, rtol=1e-6)


def test_statistics_of_n_grams_follow_those_of_the_network() -> None:
    found = statistics(surprisals(LINES, bits=2.0))
    assert found.shape == (len(LINES), len(STATISTICS) + len(NGRAM_STATISTICS))
    plain = [surprisal([2.0] * len(line), end=2.0) for line in LINES]
    np.testing.assert_allclose(found[:, : len(STATISTICS)], statistics(plain))
    mean = [one.mean() for one in COUNTED.surprisals([line + "\n" for line in LINES])]
    np.testing.assert_allclose(found[:, -1], mean, rtol=1e-6)


def test_the_better_predictor_of_normal_lines_weighs_more() -> None:
    lines = [" ".join(words) for words in itertools.permutations(["the cat", "sat on", "the mat", "the log"])]
    ngrams = np.concatenate(COUNTED.surprisals([line + "\n" for line in lines])).mean()
    shares = [
        calibrate(surprisals(lines, bits=ngrams + more)).buckets[0].weights[:8].sum()
        for more in (-0.9, -0.2, 0.0, 0.2, 0.9)
    ]
    least, most = NETWORK_WEIGHT
    np.testing.assert_allclose(shares, [most, 0.6, 0.5, 0.4, least], rtol=1e-3)
    weights = calibrate(surprisals(lines, bits=1.0)).buckets[0].weights
    assert weights.sum() == pytest.approx(1.0) and (weights > 0).all()


def test_n_grams_find_anomalies_that_a_useless_network_misses() -> None:
    lines = [line for line in TEXT.split("\n") if line] * 5
    known, _ = load(dump(calibrate(surprisals(lines, bits=4.0))), where="a test")
    scores, p = known.score(surprisals(["the cat sat on the mat", "tac eht tas no eht tam"], bits=4.0))
    assert p[0] > 0.3 and p[1] < 0.01 and scores[1] > scores[0]
