import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.anomaly import calibration as calibration_format
from nextchar.models.anomaly.calibration import SCORE_TOLERANCE, dump, lines_needed, load
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.errors import InvalidInput, Unavailable
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.successors import Break
from tests.models.anomaly.surprisals import random_lines, surprisal


def test_false_alarm_rate_is_the_requested_one() -> None:
    flagged = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        calibration = calibrate(random_lines(random, 400))
        _, p = calibration.score(random_lines(random, 500))
        flagged.append((p <= 0.05).mean())
    assert 0.03 < np.mean(flagged) < 0.065


def test_a_break_makes_a_line_rarer() -> None:
    lines = random_lines(np.random.default_rng(0), 300)
    calibration, found = calibrate(lines), Break(2**-9, 2**-12, "text", "", "", "", 0, 0, 11.0, 4.5)
    scores, p = calibration.score([lines[0], replace(lines[0], breaks=(found,))])
    assert scores[1] == pytest.approx(scores[0] + 4.5) and p[1] == min(p[0], 2**-9)


def test_duplicates_that_differ_by_rounding_are_no_alarms() -> None:
    random = np.random.default_rng(0)
    kinds = [random.exponential(1.0, 30).astype(np.float32) for _ in range(3)]
    calibration, _ = load(dump(calibrate([surprisal(kinds[i % 3]) for i in range(150)])), where="a test")
    as_int8 = [bits + random.normal(0, 0.003, 30).astype(np.float32) for bits in kinds]
    again = [surprisal(as_int8[i % 3]) for i in range(150)]
    scores, p = calibration.score(again)
    assert p.min() > 0.05
    assert (scores <= calibration.thresholds(0.05)[0]).all()


def test_p_value_is_the_share_of_calibration_lines_at_least_as_high() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 30))
    bucket = calibration.buckets[0]
    lines = random_lines(np.random.default_rng(1), 40)
    scores, p = calibration.score(lines)
    naive = [(1 + (bucket.scores >= s - SCORE_TOLERANCE).sum()) / 31 for s in scores]
    np.testing.assert_allclose(p, naive)
    assert calibration.smallest_p_value == pytest.approx(1 / 31)


@pytest.mark.parametrize("bits", [[9.0] * 30, [0.1] * 29 + [40.0], [0.1] * 15 + [12.0] * 3 + [0.1] * 10])
def test_lines_with_any_kind_of_anomaly_score_highest(bits: list[float]) -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 200))
    scores, p = calibration.score([surprisal(bits)])
    assert scores[0] > calibration.buckets[0].scores[-3]
    assert p[0] <= 0.02


def test_scores_beyond_all_calibration_lines_keep_increasing() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 50))
    scores, _ = calibration.score([surprisal([20.0] * 9), surprisal([40.0] * 9)])
    assert scores[1] > scores[0] > calibration.buckets[0].scores[-1]


def test_length_alone_does_not_change_the_score() -> None:
    calibration = calibrate([surprisal([1.0] * n, [1.0] * n) for n in range(2, 80)])
    scores, p = calibration.score([surprisal([1.0] * n, [1.0] * n) for n in (1, 500, 5000)])
    assert (p > 0.5).all() and (scores < 1).all()


def test_threshold_and_p_value_flag_the_same_lines() -> None:
    random = np.random.default_rng(3)
    calibration = calibrate(random_lines(random, 300), buckets=3)
    lines = random_lines(random, 300)
    scores, p = calibration.score(lines)
    bucket_of = calibration.bucket_of(np.array([len(line.bits) for line in lines]))
    limits = np.array(calibration.thresholds(0.05))[bucket_of]
    np.testing.assert_array_equal(scores > limits, p <= 0.05)


def test_too_few_lines_for_a_rate_are_refused_with_the_number_needed() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 98))
    with pytest.raises(InvalidInput, match="at least 99 calibration lines and there are 98") as caught:
        calibration.thresholds(0.01)
    assert caught.value.code == "too_few_calibration_lines"
    assert calibrate(random_lines(np.random.default_rng(0), 99)).thresholds(0.01)
    assert calibration.default_rate() == pytest.approx(1 / 99)
    assert calibrate(random_lines(np.random.default_rng(0), 200)).default_rate() == 0.01
    assert lines_needed(0.001) == 999
    with pytest.raises(InvalidInput, match="needs at least 2 lines and got 1"):
        calibrate(random_lines(np.random.default_rng(0), 1))


def test_tail_that_fits_gives_rates_below_one_in_n() -> None:
    new = random_lines(np.random.default_rng(99), 10_000)
    shares = []
    for seed in range(5):
        calibration = calibrate(random_lines(np.random.default_rng(seed), 600))
        if calibration.has_tail:
            limit = calibration.thresholds(1 / 2000)[0]
            assert limit >= calibration.buckets[0].scores[-1]
            scores, p = calibration.score(new)
            shares.append((scores > limit).mean())
            assert p.min() < calibration.smallest_p_value
    assert len(shares) >= 3
    assert 1 / 6000 < np.mean(shares) < 3 / 2000


def test_extrapolation_by_a_tail_is_bounded() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 2000))
    assert calibration.has_tail and calibration.default_rate() == 0.01
    _, p = calibration.score([surprisal([500.0] * 90)])
    assert p[0] == pytest.approx(calibration.smallest_p_value / 100)
    with pytest.raises(InvalidInput, match="or use a rate of at least 5e-06"):
        calibration.thresholds(1e-6)


def test_buckets_compare_lines_of_similar_length() -> None:
    short = [surprisal([2.0 + 0.1 * (i % 7)] * 5) for i in range(60)]
    long = [surprisal([8.0 + 0.1 * (i % 7)] * 50) for i in range(60)]
    calibration = calibrate([*short, *long], buckets=2)
    assert [b.lines for b in calibration.buckets] == [60, 60] and calibration.buckets[0].longest == 5
    _, p = calibration.score([surprisal([8.3] * 5), surprisal([8.3] * 50)])
    assert p[0] == pytest.approx(1 / 61) and p[1] > 0.3


def test_calibration_survives_a_round_trip() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 700), buckets=2)
    again, about = load(dump(calibration, source="here"), where="there")
    lines = random_lines(np.random.default_rng(5), 50)
    np.testing.assert_allclose(again.score(lines)[0], calibration.score(lines)[0], atol=1e-3)
    np.testing.assert_allclose(again.score(lines)[1], calibration.score(lines)[1], atol=2 / 300)
    assert about == {"source": "here"} and again.lines == 700
    assert again.character_excess == pytest.approx(calibration.character_excess)


def test_records_from_before_there_were_weights_weigh_all_statistics_equally() -> None:
    made = calibrate(random_lines(np.random.default_rng(0), 20))
    record = json.loads(dump(made))
    for bucket in record["buckets"]:
        del bucket["weights"]
    [bucket] = load(json.dumps(record).encode(), where="x")[0].buckets
    np.testing.assert_array_equal(bucket.weights, np.full(8, 1 / 8))


def test_every_field_survives_a_round_trip() -> None:
    made = calibrate(random_lines(np.random.default_rng(0), 1200), buckets=2)
    again, _ = load(dump(made), where="x")
    assert made.has_tail and (again.characters, again.lines) == (made.characters, 1200)
    for before, after in zip(made.buckets, again.buckets, strict=True):
        assert (after.longest, after.lines, after.tail) == (before.longest, before.lines, before.tail)
        np.testing.assert_array_equal(after.weights, before.weights)
        np.testing.assert_array_equal(after.spread, before.spread)
        np.testing.assert_array_equal(after.scores, before.scores.astype(np.float32))
        np.testing.assert_array_equal(after.statistics, before.statistics.astype(np.float32))


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"format_version": 1, "statistics": 3}'])
def test_damaged_records_are_refused(damage: bytes) -> None:
    with pytest.raises(Unavailable, match="calibrate again"):
        load(damage, where="calibration x")


def test_the_arrays_of_all_buckets_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = calibrate(random_lines(np.random.default_rng(0), 300), buckets=3)
    data = dump(made)
    total = sum(4 * (one.statistics.size + one.scores.size) for one in made.buckets)
    monkeypatch.setattr(calibration_format, "MAX_BYTES", total)
    assert load(data, where="calibration x")[0].lines == 300
    monkeypatch.setattr(calibration_format, "MAX_BYTES", total - 1)
    with pytest.raises(Unavailable, match="calibrate again"):
        load(data, where="calibration x")


def test_records_of_another_format_version_are_refused() -> None:
    record = json.loads(dump(calibrate(random_lines(np.random.default_rng(0), 5)))) | {"format_version": 9}
    with pytest.raises(Unavailable, match=r"newer version of nextchar; upgrade this process") as caught:
        load(json.dumps(record).encode(), where="calibration x")
    assert caught.value.code == "calibration_format_unknown"


@pytest.mark.parametrize("count", [135, 400])
def test_estimated_p_values_of_normal_lines_are_about_right_below_the_smallest_p_value(count: int) -> None:
    shares = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        calibration = calibrate(random_lines(random, count))
        bucket = calibration.buckets[0]
        scores, p = calibration.score(random_lines(random, 4000))
        estimated = bucket.estimated_p_value(scores)
        assert (estimated <= p).all()
        np.testing.assert_allclose(estimated[p > 1.5 / (count + 1)], p[p > 1.5 / (count + 1)])
        shares.append([(estimated <= rate).mean() for rate in (0.001, 0.0001)])
    warnings, criticals = np.mean(shares, 0)
    assert 0.0001 < warnings < 0.003 and criticals < 0.0005


def test_estimated_p_value_decreases_by_at_most_half_per_bit() -> None:
    bucket = calibrate(random_lines(np.random.default_rng(0), 135)).buckets[0]
    assert bucket.tail is None and bucket.min_p_value == 1 / 136
    beyond = bucket.scores[-1] + SCORE_TOLERANCE + np.array([0.0, 1.0, 2.0, 20.0]) + 1e-9
    estimated = bucket.estimated_p_value(beyond)
    assert estimated[0] == pytest.approx(1 / 136)
    ratios = estimated[1:3] / estimated[:2]
    assert (ratios >= 0.5 - 1e-9).all() and (ratios < 1).all() and estimated[3] < 1e-4
    calibration = calibrate(random_lines(np.random.default_rng(0), 135))
    assert calibration.estimated_p_value(float(beyond[3]), characters=9) == pytest.approx(estimated[3])


def test_with_a_fitted_tail_the_estimate_is_the_p_value() -> None:
    calibration = calibrate(random_lines(np.random.default_rng(0), 3000))
    bucket = calibration.buckets[0]
    assert bucket.tail is not None
    scores = bucket.scores[-1] + np.array([-1.0, 0.0, 1.0, 30.0])
    np.testing.assert_array_equal(bucket.estimated_p_value(scores), bucket.p_value(scores))


RATES = np.array([0.02, 0.05, 0.1, 0.2, 0.3])


@st.composite
def calibration_lines(draw: st.DrawFn, *, max_lines: int) -> Sequence[LineSurprisal]:
    """Lines of one distribution: with many ties, with a light tail, or with a heavy one."""
    random, count = np.random.default_rng(draw(st.integers(0, 9999))), draw(st.integers(3, max_lines))
    bits_of = draw(
        st.sampled_from(
            [
                lambda n: random.integers(0, 3, n),
                lambda n: random.exponential(1, n),
                lambda n: random.pareto(1, n),
            ]
        )
    )
    return [surprisal(bits_of(n)) for n in random.integers(1, 20, count)]


@settings(max_examples=30)
@given(calibration_lines(max_lines=700))
def test_p_values_are_probabilities_that_fall_as_scores_rise(lines: Sequence[LineSurprisal]) -> None:
    [bucket] = calibrate(lines).buckets
    scores = np.sort(np.concatenate([bucket.scores, np.linspace(-1, bucket.scores[-1] + 50, 500)]))
    for p in (bucket.p_value(scores), bucket.estimated_p_value(scores)):
        assert (p > 0).all() and (p <= 1).all()
        assert (np.diff(p) <= 0).all()
    assert bucket.p_value(scores).min() >= bucket.min_p_value
    assert bucket.p_value(scores)[0] == 1 or scores[0] > bucket.scores[0] + SCORE_TOLERANCE


@settings(max_examples=30)
@given(calibration_lines(max_lines=700))
def test_calibration_lines_keep_the_false_alarm_rate(lines: Sequence[LineSurprisal]) -> None:
    _, p = calibrate(lines).score(lines)
    for rate in RATES:
        assert (p <= rate).mean() <= rate


@settings(max_examples=15)
@given(calibration_lines(max_lines=25))
def test_each_line_in_turn_as_the_new_one_keeps_the_false_alarm_rate(lines: Sequence[LineSurprisal]) -> None:
    """Each line is as likely to be the new one as any other: they are exchangeable."""
    p = [calibrate([*lines[:i], *lines[i + 1 :]]).score([line])[1][0] for i, line in enumerate(lines)]
    for rate in RATES:
        assert np.mean(np.array(p) <= rate) <= rate + 1 / len(lines)
