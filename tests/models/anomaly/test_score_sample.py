"""Which lines are in the sample from which a rolling calibration is made."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly import line_scores as score_sample
from nextchar.models.anomaly.calibration import SCORE_TOLERANCE, Calibration
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.anomaly.line_scores import (
    DECAY_S,
    SAMPLE_LINES,
    ObservedScore,
    ScoreSample,
    censored,
    initial_sample,
    newest,
)
from tests.models.anomaly.surprisals import random_lines

EMPTY = ScoreSample((), np.zeros(0))


def calibration(*counts: int) -> Calibration:
    """Of buckets with so many scores: 0, 1, 2, ..."""
    made = calibrate(random_lines(np.random.default_rng(0), 50))
    buckets = [
        replace(made.buckets[0], scores=np.arange(n, dtype=np.float64), longest=index, lines=n)
        for index, n in enumerate(counts)
    ]
    return replace(made, buckets=tuple(buckets))


def test_first_sample_has_evenly_spaced_scores_of_each_bucket_by_its_size() -> None:
    sample = initial_sample(calibration(8999, 1000, 1), now=7.0, random=np.random.default_rng(0))
    scores = {index: [line.score for line in sample.lines if line.bucket == index] for index in range(3)}
    assert {index: len(own) for index, own in scores.items()} == {0: 4499, 1: 500, 2: 1}
    for index, last in ((0, 8998), (1, 999)):
        assert (scores[index][0], scores[index][-1]) == (0, last)
        assert set(np.diff(scores[index])) <= {1, 2, 3}
    assert {(line.time, line.rate, line.alert) for line in sample.lines} == {(7.0, 0.0, None)}
    assert len(sample) == len(sample.keys) == SAMPLE_LINES


def test_first_sample_has_all_scores_of_a_small_calibration() -> None:
    sample = initial_sample(calibration(7, 2), now=0.0, random=np.random.default_rng(0))
    assert [(line.bucket, line.score) for line in sample.lines] == [
        *((0, score) for score in range(7)), (1, 0), (1, 1)
    ]  # fmt: skip


def test_a_line_is_likelier_by_a_factor_of_e_for_each_decay_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_sample, "SAMPLE_LINES", 500)
    random = np.random.default_rng(1)
    old = newest(EMPTY, [ObservedScore(0.0, 0.0, 0, 0.01)] * 500, random)
    new = [ObservedScore(2 * DECAY_S, 1.0, 0, 0.01)] * 500
    kept = Counter(line.score for line in newest(old, new, random).lines)
    # A line is kept if its Gumbel number exceeds a threshold: 500 in all for exp(-threshold) = 0.22.
    assert kept == {0.0: pytest.approx(99, abs=25), 1.0: pytest.approx(401, abs=25)}


def test_lines_of_a_sample_keep_their_order_and_their_keys() -> None:
    random = np.random.default_rng(2)
    first = newest(EMPTY, [ObservedScore(0.0, float(i), 0, 0.01) for i in range(3)], random)
    both = newest(first, [ObservedScore(0.0, 3.0, 0, 0.01)], random)
    assert [line.score for line in both.lines] == [0, 1, 2, 3]
    np.testing.assert_array_equal(both.keys[:3], first.keys)


def test_the_score_of_a_flagged_line_is_not_above_what_it_exceeded() -> None:
    assert censored(5.0) == 5.0 - SCORE_TOLERANCE


def test_a_bucket_of_very_few_lines_has_one_of_them_in_the_first_sample() -> None:
    sample = initial_sample(calibration(20_000, 3), now=0.0, random=np.random.default_rng(0))
    assert Counter(line.bucket for line in sample.lines) == {0: 4999, 1: 1}
