"""n-grams and templates: what they say of a line, and their weight in the score."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly.aggregate import (
    NEW_TEMPLATE_BITS,
    NGRAM_STATISTICS,
    STATISTICS,
    TEMPLATE_STATISTICS,
    statistics,
)
from nextchar.models.anomaly.calibration import dump, load
from nextchar.models.anomaly.calibration_builder import NETWORK_WEIGHT, calibrate
from nextchar.models.anomaly.scorer import with_ngram, with_ngram_and_templates, with_templates
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.templates import Templates
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.models.text.word_ngram import WordNgrams
from tests.models.anomaly.surprisals import surprisal

TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 20
VOCABULARY = Vocabulary(TEXT)
COUNTED = ngram_file.ngram_of(VOCABULARY.encode(TEXT), VOCABULARY)
LINES = ["the cat sat on the log", "", "zzz", "a mat on a log"]


def surprisals(lines: list[str], *, bits: float) -> list[LineSurprisal]:
    """Surprisal by a network for which every character and newline costs `bits`."""
    return with_ngram([surprisal([bits] * len(line), end=bits) for line in lines], lines, COUNTED)


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
    assert weights.sum() == pytest.approx(1.0) and (weights >= 0).all() and weights[-1] > 0


def test_n_grams_find_anomalies_that_a_useless_network_misses() -> None:
    lines = [line for line in TEXT.split("\n") if line] * 5
    known, _ = load(dump(calibrate(surprisals(lines, bits=4.0))), where="a test")
    scores, p = known.score(surprisals(["the cat sat on the mat", "tac eht tas no eht tam"], bits=4.0))
    assert p[0] > 0.3 and p[1] < 0.01 and scores[1] > scores[0]


MESSAGES = [
    *(f"Failed password for user{i % 9} from host{i % 7} port {i} ssh2" for i in range(300)),
    *(f"Connection closed by host{i % 7} [preauth]" for i in range(90)),
    *(f"session {i} opened" for i in range(10)),
]
TEMPLATES = Templates.fit(MESSAGES)


def read(lines: list[str]) -> list[LineSurprisal]:
    """Lines of which the characters say nothing, so that only templates can."""
    flat = [surprisal([1.0] * len(line), [1.0] * len(line)) for line in lines]
    return with_templates(
        [replace(one, ngram_bits=np.ones(len(one.bits), np.float32)) for one in flat], lines, TEMPLATES
    )


def test_statistics_of_templates_come_last() -> None:
    found = statistics(read(["session 7 opened", "session 7 closed", ""]))
    names = STATISTICS + NGRAM_STATISTICS + TEMPLATE_STATISTICS
    assert found.shape == (3, len(names))
    columns = dict(zip(names, found.T, strict=True))
    assert 0 < columns["template"][0] < columns["template"][1] and columns["template"][2] > 0
    assert with_ngram_and_templates(read([""]), [""], None, None)[0].parsed is not None


def test_a_new_template_and_an_unusual_value_raise_the_score() -> None:
    known, _ = load(dump(calibrate(read(MESSAGES[::3]))), where="a test")
    scores, p = known.score(
        read(
            [
                "Failed password for user3 from host1 port 17 ssh2",
                "Failed password for user3 from ../../x port 17 ssh2",
                "Accepted password for user3 from host1 port 17 ssh2",
            ]
        )
    )
    assert scores[0] < scores[1] < scores[2]
    assert p[0] > 0.2 and p[2] < 0.02


def test_templates_that_calibration_lines_lack_are_not_rare_if_training_lines_have_them() -> None:
    known = calibrate(read(MESSAGES[:200]))
    scores, _ = known.score(read(["Connection closed by host3 [preauth]", "Bad protocol version by host3"]))
    assert scores[0] < 1.5 < scores[1]  # 25 % of the training lines are of this or a rarer kind


def test_templates_without_fixed_words_have_no_weight() -> None:
    lines = [" ".join(map(str, range(i, i + 5))) for i in range(50)]
    templates = Templates.fit(lines)
    flat = [replace(surprisal([1.0] * 9), ngram_bits=np.ones(9, np.float32)) for _ in lines]
    weights = calibrate(with_templates(flat, lines, templates)).buckets[0].weights
    assert weights.sum() == pytest.approx(1) and (weights[-2:] == 0).all()
    weights = calibrate(read(MESSAGES)).buckets[0].weights
    assert weights.sum() == pytest.approx(1) and 0.2 < weights[-2] < 0.5


def test_an_older_calibration_without_templates_scores_as_before() -> None:
    lines = read(MESSAGES[:100])
    older = calibrate([replace(line, parsed=None) for line in lines])
    assert older.buckets[0].statistics.shape[0] == 12
    older, _ = load(dump(older), where="a test")
    new = read(["Accepted password for user3 from host1 port 17 ssh2", *MESSAGES[:5]])
    np.testing.assert_array_equal(older.score(new), older.score([replace(line, parsed=None) for line in new]))


def test_words_in_a_place_where_they_never_stood_are_rare() -> None:
    random = np.random.default_rng(5)
    traces = [" ".join(random.permutation(["11", "12", "13"])) + " 26 26 21" for _ in range(400)]
    words, templates = WordNgrams.fit("\n".join(traces[:300])), Templates.fit(traces[:300])

    def read_words(lines: list[str], words: WordNgrams | None) -> list[LineSurprisal]:
        same = surprisals(lines, bits=1.0)
        return with_ngram_and_templates(same, lines, COUNTED, templates, words=words)

    [swapped] = read_words(["11 12 26 13 26 21"], words)
    without = calibrate(read_words(traces[300:], None))
    known = calibrate(read_words(traces[300:], words))
    assert len(known.buckets[0].weights) == 16 and known.score([swapped])[1][0] < 0.02
    assert without.score([swapped])[1][0] > 0.1
    loaded, _ = load(dump(known), where="a test")
    np.testing.assert_allclose(loaded.score([swapped]), known.score([swapped]), rtol=1e-3)
    older, _ = load(dump(without), where="a test")
    np.testing.assert_array_equal(older.score([swapped]), older.score([replace(swapped, words=None)]))


def test_peaks_count_less_in_long_lines() -> None:
    short, long = (
        calibrate([surprisal([float(i % 5)] * length) for i in range(20)]).buckets[0].weights
        for length in (30, 1000)
    )
    np.testing.assert_allclose(short, 1 / 8)
    assert long[0] < long[1] < long[2] < long[3] and long.sum() == pytest.approx(1)


def test_every_line_needs_its_surprisal() -> None:
    lines = ["the cat", "the dog"]
    for some in ([], surprisals(lines[:1], bits=1.0), surprisals([*lines, ""], bits=1.0)):
        with pytest.raises(ValueError, match="argument"):
            with_ngram(some, lines, COUNTED)
        with pytest.raises(ValueError, match="argument"):
            with_templates(some, lines, TEMPLATES)


def test_a_new_template_is_rarer_than_it_is_estimated_to_be() -> None:
    known, new = read(["session 7 opened", "session 7 closed"])
    assert known.parsed and new.parsed and new.parsed.template.is_new and not known.parsed.template.is_new
    expected = [known.parsed.template_bits, new.parsed.template_bits + NEW_TEMPLATE_BITS]
    np.testing.assert_allclose(statistics([known, new])[:, -2], expected)
