import weakref
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly import calibration_builder
from nextchar.models.anomaly.aggregate import statistics
from nextchar.models.anomaly.calibration import MIN_LINES
from nextchar.models.anomaly.calibration_builder import CalibrationBuilder, calibrate
from nextchar.models.anomaly.tail import leave_one_out_rarity
from nextchar.models.errors import InvalidInput
from nextchar.models.text.templates import ParsedLine, Template
from nextchar.models.text.word_ngram import WordSurprisal
from tests.models.anomaly.surprisals import random_lines, surprisal


def test_lines_of_one_length_make_one_bucket() -> None:
    calibration = calibrate([surprisal([1.0 + i / 9] * 5) for i in range(9)], buckets=4)
    assert len(calibration.buckets) == 1 and calibration.lines == 9


def test_a_bucket_has_at_least_as_many_lines_as_a_calibration_needs() -> None:
    lines = [surprisal([1.0 + i] * length) for length in (5, 9) for i in range(MIN_LINES)]
    calibration = calibrate(lines, buckets=2)
    assert [(b.longest, b.lines) for b in calibration.buckets] == [(5, MIN_LINES), (None, MIN_LINES)]
    with pytest.raises(InvalidInput) as caught:
        calibrate(lines[:-1], buckets=2)
    assert (caught.value.code, caught.value.param) == ("too_few_calibration_lines", "lines")
    assert f"at least {2 * MIN_LINES} lines and got {2 * MIN_LINES - 1}" in str(caught.value)
    assert "a false-alarm rate of 1 % needs 198" in str(caught.value)


def test_quantiles_are_kept_of_very_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = random_lines(np.random.default_rng(0), 1000)
    whole = calibrate(lines)
    monkeypatch.setattr(calibration_builder, "MAX_KEPT", 200)
    thinned = calibrate(lines)
    assert (thinned.lines, thinned.kept_lines) == (1000, 200)
    assert thinned.smallest_p_value == pytest.approx(1 / 201)
    assert thinned.thresholds(0.05)[0] == pytest.approx(whole.thresholds(0.05)[0], rel=0.1)


@pytest.mark.parametrize(("lines", "kept"), [(49, 49), (50, 50), (51, 50), (99, 50)])
def test_kept_lines_are_the_first_the_last_and_those_evenly_between(
    lines: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_builder, "MAX_KEPT", 50)
    [bucket] = calibrate([surprisal([float(i)] * 3) for i in range(lines)]).buckets
    assert (bucket.lines, bucket.kept, bucket.statistics.shape) == (lines, kept, (8, kept))
    peaks = bucket.statistics[0]  # the highest character of each line
    assert (peaks[0], peaks[-1]) == (0, lines - 1)
    assert set(np.diff(peaks)) <= {1, 2} and set(np.diff(bucket.scores)) != {0}


@pytest.mark.parametrize(
    ("lengths", "buckets"),
    [
        ({5: 4, 7: 4, 9: 4}, [(5, 4), (7, 4), (None, 4)]),
        ({5: 6, 7: 1, 9: 5}, [(None, 12)]),  # the last would be empty
        ({5: 3, 7: 6, 9: 3}, [(7, 9), (None, 3)]),
    ],
)
def test_buckets_are_of_about_equal_size(
    lengths: dict[int, int], buckets: list[tuple[int | None, int]]
) -> None:
    lines = [surprisal([float(i)] * length) for length, count in lengths.items() for i in range(count)]
    made = calibrate(lines, buckets=3)
    assert [(bucket.longest, bucket.lines) for bucket in made.buckets] == buckets


@pytest.mark.parametrize(
    ("length", "of_windows"), [(9, [1, 1, 1, 1]), (80, [0.5, 1, 1, 1]), (480, [1 / 12, 1 / 4, 1, 1])]
)
def test_peaks_of_long_lines_weigh_less(length: int, of_windows: list[float]) -> None:
    others = [surprisal([1.0] * n) for n in (1, length, 5000)]  # their median is the length
    [bucket] = calibrate([surprisal([1.0] * length), *others]).buckets
    np.testing.assert_allclose(bucket.weights, np.array(of_windows * 2) / (2 * sum(of_windows)))


@pytest.mark.parametrize(
    ("ngram_bits", "share"), [(1.5, 0.5), (1.7, 0.6), (0.7, 0.15), (3.0, 0.8), (1.3, 0.4)]
)
def test_weights_of_network_n_grams_and_templates_by_hand(ngram_bits: float, share: float) -> None:
    line = replace(surprisal([1.5] * 4, end=1.5), ngram_bits=np.full(5, ngram_bits, np.float32))
    [bucket] = calibrate([line] * 3).buckets
    expected = np.array([share / 8] * 8 + [0, 0, (1 - share) / 2, (1 - share) / 2])
    np.testing.assert_allclose(bucket.weights, expected, rtol=1e-6)
    template = Template("a <*>", 1)
    parsed = [ParsedLine(template, ("x",), 1.0, 1.0, fixed) for fixed in (0.25, 0.5, 0.75)]
    [bucket] = calibrate([replace(line, parsed=one) for one in parsed]).buckets
    np.testing.assert_allclose(bucket.weights, [*(0.7 * expected), 0.25, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
    ("word_bits", "unknown", "network", "words"),
    [
        (5.0, (), 0.5, 0.5),  # as many as the n-grams of characters need
        (4.0, (), 0.4, 0.7),  # a fifth fewer, and 0.2 per character fewer than the network
        (2.0, (), 0.2, 0.8),
        (4.0, ((0, 2),), 0.5, 0.3),  # with the two characters of an unknown word a fifth more
        (5.0, ((0, 4),), 0.5, 0.0),
    ],
)
def test_weights_of_words_by_hand(
    word_bits: float, unknown: tuple[tuple[int, int], ...], network: float, words: float
) -> None:
    line = replace(
        surprisal([1.0] * 4, end=1.0),
        ngram_bits=np.ones(5, np.float32),
        parsed=ParsedLine(Template("a <*>", 1), ("x",), 1.0, 1.0, 0.5),
        words=WordSurprisal(np.array([word_bits - 1, 1], np.float32), unknown),
    )
    [bucket] = calibrate([line] * 3).buckets
    of_ngrams = 0.7 * (1 - network)
    np.testing.assert_allclose(bucket.weights[:8], 0.7 * network / 8, rtol=1e-6)
    np.testing.assert_allclose(bucket.weights[10:12], of_ngrams * (1 - words) / 2, rtol=1e-6)
    np.testing.assert_allclose(bucket.weights[12:14], [0.25, 0.05], rtol=1e-6)
    np.testing.assert_allclose(bucket.weights[14:], of_ngrams * words / 2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("words", "window"), [(80, 1.0), (160, 0.5), (800, 0.1)])
def test_peaks_of_lines_of_many_words_weigh_less(words: int, window: float) -> None:
    line = replace(
        surprisal([1.0] * 800),
        ngram_bits=np.ones(800, np.float32),
        parsed=ParsedLine(Template("<*>", 1), ("x",), 1.0, 1.0, 0.0),
        words=WordSurprisal(np.full(words, 800 / words, np.float32), ()),
    )
    [bucket] = calibrate([line] * 3).buckets
    np.testing.assert_allclose(bucket.weights[14:], 0.25 * np.array([window, 1]) / (1 + window), rtol=1e-6)


def test_calibration_in_batches_equals_calibration_at_once() -> None:
    surprisals = random_lines(np.random.default_rng(7), 900)
    some = CalibrationBuilder()
    for at in range(0, 900, 70):
        some.add(surprisals[at : at + 70])
    some.add([])
    made, whole = some.build(buckets=2), calibrate(surprisals, buckets=2)
    assert (made.lines, made.characters) == (whole.lines, whole.characters) == (900, whole.characters)
    assert made.character_excess == whole.character_excess
    for one, other in zip(made.buckets, whole.buckets, strict=True):
        assert (one.longest, one.lines) == (other.longest, other.lines)
        np.testing.assert_allclose(one.statistics, other.statistics, atol=1e-9)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)


def test_builder_keeps_no_surprisals() -> None:
    lines = CalibrationBuilder()
    surprisals = random_lines(np.random.default_rng(7), 50)
    kept = [weakref.ref(reading.bits) for reading in surprisals]
    lines.add(surprisals)
    del surprisals
    assert not any(reference() is not None for reference in kept)


def test_excess_of_characters_is_kept_at_the_high_end() -> None:
    lines = [surprisal(np.linspace(0, 10, 500), np.linspace(2, 0, 500)) for _ in range(20)]
    excess = np.concatenate([line.bits - line.entropy for line in lines])
    expected = np.quantile(excess, [0.99, 0.997, 0.999, 0.9997, 0.9999])
    np.testing.assert_allclose(calibrate(lines).character_excess, expected, rtol=1e-6)


def test_a_kind_of_line_that_only_older_lines_have_is_not_rare() -> None:
    random = np.random.default_rng(3)
    newest = random_lines(random, 100)
    older = random_lines(random, 300) + random_lines(random, 15, scale=4.0)
    [rare] = random_lines(random, 1, scale=4.0)
    _, alone = calibrate(newest).score([rare])
    with_older = calibrate(newest, older=older)
    assert with_older.lines == 415
    assert alone[0] < 0.02 < with_older.score([rare])[1][0]


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_the_threshold_is_at_least_that_of_the_newest_lines(rate: float) -> None:
    random = np.random.default_rng(4)
    older, newest = random_lines(random, 900, scale=0.5), random_lines(random, 100)
    made = calibrate(newest, older=older)
    scores, _ = made.score(newest)
    assert (scores > made.thresholds(rate)[0]).mean() <= rate


def test_weights_and_character_thresholds_are_those_of_the_newest_lines() -> None:
    random = np.random.default_rng(5)
    older, newest = random_lines(random, 50), random_lines(random, 60, scale=2.0)
    made, alone = calibrate(newest, older=older), calibrate(newest)
    assert made.character_excess == alone.character_excess
    np.testing.assert_array_equal(made.buckets[0].weights, alone.buckets[0].weights)


def test_without_older_lines_scores_are_those_of_each_line_against_the_others() -> None:
    lines = random_lines(np.random.default_rng(8), 200)
    [bucket] = calibrate(lines).buckets
    values = statistics(lines)
    rarities = leave_one_out_rarity(values, np.sort(values, 0).T, values.std(0))
    np.testing.assert_array_equal(bucket.scores, np.sort(rarities @ bucket.weights))


@pytest.mark.parametrize(("older", "newest"), [(10, 9), (31, 4), (3, 96), (97, 2)])
def test_thresholds_are_the_higher_ones_of_all_lines_and_of_the_newest(older: int, newest: int) -> None:
    random = np.random.default_rng(9)
    lines = random_lines(random, older) + random_lines(random, newest, scale=4.0)
    [bucket] = calibrate(lines[older:], older=lines[:older]).buckets
    values = statistics(lines)
    scores = leave_one_out_rarity(values, np.sort(values, 0).T, values.std(0)) @ bucket.weights
    every, own = sorted(scores), sorted(scores[older:])
    for k in range(1, older + newest + 1):  # the rate k / (n + 1), by the lines of each
        rank = max(1, k * (newest + 1) // (older + newest + 1))
        assert bucket.scores[-k] == max(every[-k], own[-rank])
