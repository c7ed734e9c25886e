"""P-values and thresholds of one bucket, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly.calibration import (
    MAX_EXTRAPOLATION,
    SCORE_TOLERANCE,
    Bucket,
    Calibration,
    lines_needed,
    rounded_up,
)
from nextchar.models.anomaly.tail import Tail
from nextchar.models.errors import InvalidInput

TAIL = Tail(start=15.0, share=0.2, shape=0.0, scale=2.0, fit_p=0.5)


def bucket(count: int = 19, *, tail: Tail | None = None, longest: int | None = None) -> Bucket:
    """With the scores 0, 1, 2, ..."""
    scores = np.arange(count, dtype=np.float64)
    return Bucket(longest, np.zeros((8, 2)), np.ones(8), np.full(8, 1 / 8), scores, tail, count)


def calibration(*buckets: Bucket) -> Calibration:
    return Calibration(tuple(buckets), (), 0)


@pytest.mark.parametrize(
    ("score", "at_least"), [(-1.0, 19), (9.04, 10), (9.06, 9), (18.0, 1), (18.06, 0), (99.0, 0)]
)
def test_p_value_counts_the_scores_that_are_as_high(score: float, at_least: int) -> None:
    assert bucket().p_value(np.array([score]))[0] == (1 + at_least) / 20
    assert calibration(bucket()).p_value(score, characters=3) == (1 + at_least) / 20


def test_p_values_beyond_all_scores_are_those_of_the_tail_within_bounds() -> None:
    with_tail = bucket(tail=TAIL)
    scores = np.array([17.0, 18.06, 21.0, 25.0, 99.0])
    expected = [3 / 20, 0.2 * math.exp(-3.06 / 2), 0.2 * math.exp(-3), 0.2 * math.exp(-5)]
    found = with_tail.p_value(scores)
    np.testing.assert_allclose(found, [*np.minimum(expected, [1, 1 / 20, 1, 1]), 1 / 2000])
    assert with_tail.min_p_value == found[-1] == 1 / (MAX_EXTRAPOLATION * 20)
    assert bucket().min_p_value == 1 / 20
    np.testing.assert_array_equal(with_tail.estimated_p_value(scores), found)


@pytest.mark.parametrize(("rate", "rank"), [(0.05, 1), (0.0999, 1), (0.1, 2), (0.5, 10)])
def test_threshold_is_the_score_of_its_rank(rate: float, rank: int) -> None:
    for one in (bucket(), bucket(tail=TAIL)):
        assert one.threshold(rate) == 19 - rank + SCORE_TOLERANCE


def test_threshold_below_one_in_n_is_that_of_the_tail() -> None:
    with_tail = bucket(tail=TAIL)
    assert with_tail.threshold(0.01) == pytest.approx(15 + 2 * math.log(20))
    assert with_tail.threshold(1 / 2000) == pytest.approx(15 + 2 * math.log(400))
    assert with_tail.threshold(0.0499) == 18 + SCORE_TOLERANCE, "that of the tail is lower"
    with pytest.raises(InvalidInput, match="needs more calibration lines than the 19 that there are;"):
        with_tail.threshold(0.0004)


def test_a_rate_that_needs_more_lines_is_refused_with_the_smallest_possible() -> None:
    with pytest.raises(InvalidInput) as caught:
        bucket(longest=30).threshold(0.049)
    assert caught.value.message == (
        "a false-alarm rate of 0.049 needs at least 20 calibration lines and there are 19 of up to 30"
        " characters; calibrate on more normal lines, or use a rate of at least 0.05"
    )
    assert caught.value.param == "false_alarms"


def test_without_a_tail_the_estimate_decreases_by_the_mean_excess_of_the_highest() -> None:
    small, large = bucket(19), bucket(200)
    for one, scale in ((small, np.arange(10).mean()), (large, np.arange(20).mean())):
        beyond = one.scores[-1] + SCORE_TOLERANCE + np.array([-1.0, 0.0, 3.0])
        expected = one.p_value(beyond) * np.exp([0.0, 0.0, -3.0 / scale])
        np.testing.assert_allclose(one.estimated_p_value(beyond), expected)
        assert calibration(one).estimated_p_value(float(beyond[2]), characters=1) == pytest.approx(
            expected[2]
        )
    equal = replace(small, scores=np.zeros(19))
    assert equal.estimated_p_value(np.array([2 + SCORE_TOLERANCE]))[0] == pytest.approx(1 / 20 / 4)


def test_a_line_belongs_to_the_first_bucket_that_is_long_enough() -> None:
    made = calibration(bucket(19, longest=5), bucket(9, longest=8), bucket(99))
    assert made.bucket_of(np.array([0, 5, 6, 8, 9, 1000])).tolist() == [0, 0, 1, 1, 2, 2]
    assert [made.p_value(1e9, characters=n) for n in (5, 6, 9)] == [1 / 20, 1 / 10, 1 / 100]
    assert [made.estimated_p_value(99.0, characters=n) < 1e-4 for n in (5, 6, 9)] == [True, True, False]
    assert (made.lines, made.kept_lines, made.smallest_p_value) == (127, 127, 1 / 10)
    assert [score.shape for score in made.score([])] == [(0,), (0,)]


def test_default_rate_is_one_percent_or_the_smallest() -> None:
    with_tail = bucket(tail=TAIL)
    assert calibration(with_tail, with_tail).default_rate() == 0.01
    assert calibration(with_tail, bucket(9)).default_rate() == 1 / 10
    assert calibration(bucket(98)).default_rate() == 1 / 99
    assert calibration(bucket(200)).default_rate() == 0.01


@pytest.mark.parametrize(
    ("rate", "lines"),
    [(1.0, 2), (0.5, 2), (1 / 3, 2), (0.26, 3), (0.25, 3), (0.249, 4), (0.01, 99), (1e-4, 9999)],
)
def test_lines_needed_give_a_p_value_as_small_as_the_rate(rate: float, lines: int) -> None:
    assert lines_needed(rate) == lines


@pytest.mark.parametrize(
    ("value", "digits", "rounded"),
    [(1 / 813, 2, 0.0013), (0.25, 2, 0.25), (0.251, 2, 0.26), (0.0100001, 1, 0.02), (123.0, 1, 200.0)],
)
def test_rates_are_rounded_up(value: float, digits: int, rounded: float) -> None:
    assert rounded_up(value, digits) == rounded
