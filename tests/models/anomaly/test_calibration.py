import json
import weakref

import numpy as np
import pytest

from models.anomaly import calibration as module
from models.anomaly.calibration import SAME_SCORE, CalibrationLines, calibrate, lines_needed
from models.anomaly.calibration_format import dump, load
from models.errors import InvalidInput, Unavailable
from tests.models.anomaly.readings import drawn, reading


def test_false_alarms_are_as_many_as_asked_for() -> None:
    flagged = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        known = calibrate(drawn(random, 400))
        _, p = known.score(drawn(random, 500))
        flagged.append((p <= 0.05).mean())
    assert 0.03 < np.mean(flagged) < 0.065


def test_lines_that_are_alike_but_for_rounding_are_no_alarms() -> None:
    random = np.random.default_rng(0)
    kinds = [random.exponential(1.0, 30).astype(np.float32) for _ in range(3)]
    known, _ = load(dump(calibrate([reading(kinds[i % 3]) for i in range(150)])), where="a test")
    as_int8 = [bits + random.normal(0, 0.003, 30).astype(np.float32) for bits in kinds]
    again = [reading(as_int8[i % 3]) for i in range(150)]
    scores, p = known.score(again)
    assert p.min() > 0.05
    assert (scores <= known.thresholds(0.05)[0]).all()


def test_p_value_is_the_share_of_calibration_lines_as_high() -> None:
    known = calibrate(drawn(np.random.default_rng(0), 30))
    bucket = known.buckets[0]
    lines = drawn(np.random.default_rng(1), 40)
    scores, p = known.score(lines)
    naive = [(1 + (bucket.scores >= s - SAME_SCORE).sum()) / 31 for s in scores]
    np.testing.assert_allclose(p, naive)
    assert known.smallest_p_value == pytest.approx(1 / 31)


@pytest.mark.parametrize("bits", [[9.0] * 30, [0.1] * 29 + [40.0], [0.1] * 15 + [12.0] * 3 + [0.1] * 10])
def test_lines_odd_in_any_way_score_highest(bits: list[float]) -> None:
    known = calibrate(drawn(np.random.default_rng(0), 200))
    scores, p = known.score([reading(bits)])
    assert scores[0] > known.buckets[0].scores[-3]
    assert p[0] <= 0.02


def test_the_odder_of_two_lines_beyond_all_calibration_lines_scores_higher() -> None:
    known = calibrate(drawn(np.random.default_rng(0), 50))
    scores, _ = known.score([reading([20.0] * 9), reading([40.0] * 9)])
    assert scores[1] > scores[0] > known.buckets[0].scores[-1]


def test_length_alone_decides_nothing() -> None:
    known = calibrate([reading([1.0] * n, [1.0] * n) for n in range(2, 80)])
    scores, p = known.score([reading([1.0] * n, [1.0] * n) for n in (1, 500, 5000)])
    assert (p > 0.5).all() and (scores < 1).all()


def test_threshold_flags_what_the_p_value_says() -> None:
    random = np.random.default_rng(3)
    known = calibrate(drawn(random, 300), buckets=3)
    lines = drawn(random, 300)
    scores, p = known.score(lines)
    limits = known.threshold_of(np.array([len(line.bits) for line in lines]), 0.05)
    np.testing.assert_array_equal(scores > limits, p <= 0.05)


def test_too_few_lines_for_a_rate_are_refused_with_the_number_needed() -> None:
    known = calibrate(drawn(np.random.default_rng(0), 98))
    with pytest.raises(InvalidInput, match="at least 99 calibration lines and there are 98") as caught:
        known.thresholds(0.01)
    assert caught.value.code == "too_few_calibration_lines"
    assert calibrate(drawn(np.random.default_rng(0), 99)).thresholds(0.01)
    assert known.usual_rate() == pytest.approx(1 / 99)
    assert lines_needed(0.001) == 999
    with pytest.raises(InvalidInput, match="needs at least 2 lines and got 1"):
        calibrate(drawn(np.random.default_rng(0), 1))


def test_a_tail_that_fits_goes_on_below_one_in_n() -> None:
    new = drawn(np.random.default_rng(99), 10_000)
    shares = []
    for seed in range(5):
        known = calibrate(drawn(np.random.default_rng(seed), 600))
        if known.has_tail:
            limit = known.thresholds(1 / 2000)[0]
            assert limit >= known.buckets[0].scores[-1]
            scores, p = known.score(new)
            shares.append((scores > limit).mean())
            assert p.min() < known.smallest_p_value
    assert len(shares) >= 3
    assert 1 / 6000 < np.mean(shares) < 3 / 2000


def test_a_tail_is_not_believed_endlessly() -> None:
    known = calibrate(drawn(np.random.default_rng(0), 2000))
    assert known.has_tail
    _, p = known.score([reading([500.0] * 90)])
    assert p[0] == pytest.approx(known.smallest_p_value / 100)
    with pytest.raises(InvalidInput, match="or ask for at least 5e-06"):
        known.thresholds(1e-6)


def test_buckets_compare_lines_of_like_length() -> None:
    short = [reading([2.0 + 0.1 * (i % 7)] * 5) for i in range(60)]
    long = [reading([8.0 + 0.1 * (i % 7)] * 50) for i in range(60)]
    known = calibrate([*short, *long], buckets=2)
    assert [b.lines for b in known.buckets] == [60, 60] and known.buckets[0].longest == 5
    _, p = known.score([reading([8.3] * 5), reading([8.3] * 50)])
    assert p[0] == pytest.approx(1 / 61) and p[1] > 0.3


def test_buckets_of_lines_of_one_length_are_one() -> None:
    known = calibrate([reading([1.0 + i / 9] * 5) for i in range(9)], buckets=4)
    assert len(known.buckets) == 1 and known.lines == 9


def test_of_very_many_lines_quantiles_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(np.random.default_rng(0), 1000)
    whole = calibrate(lines)
    monkeypatch.setattr(module, "MOST_KEPT", 200)
    thinned = calibrate(lines)
    assert (thinned.lines, thinned.buckets[0].kept, thinned.is_thinned) == (1000, 200, True)
    assert thinned.smallest_p_value == pytest.approx(1 / 201)
    assert thinned.thresholds(0.05)[0] == pytest.approx(whole.thresholds(0.05)[0], rel=0.1)


def test_record_gives_back_what_was_kept() -> None:
    known = calibrate(drawn(np.random.default_rng(0), 700), buckets=2)
    again, about = load(dump(known, source="here"), where="there")
    lines = drawn(np.random.default_rng(5), 50)
    np.testing.assert_allclose(again.score(lines)[0], known.score(lines)[0], atol=1e-3)
    np.testing.assert_allclose(again.score(lines)[1], known.score(lines)[1], atol=2 / 300)
    assert about == {"source": "here"} and again.lines == 700
    assert again.character_excess == pytest.approx(known.character_excess)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"format_version": 1, "statistics": 3}'])
def test_damaged_records_are_refused(damage: bytes) -> None:
    with pytest.raises(Unavailable, match="calibrate again"):
        load(damage, where="calibration x")


def test_records_of_another_version_are_refused() -> None:
    record = json.loads(dump(calibrate(drawn(np.random.default_rng(0), 5)))) | {"format_version": 9}
    with pytest.raises(Unavailable, match="another version"):
        load(json.dumps(record).encode(), where="calibration x")


def test_lines_added_some_at_a_time_calibrate_as_all_at_once() -> None:
    readings = drawn(np.random.default_rng(7), 900)
    some = CalibrationLines()
    for at in range(0, 900, 70):
        some.add(readings[at : at + 70])
    some.add([])
    made, whole = some.calibration(buckets=2), calibrate(readings, buckets=2)
    assert (made.lines, made.characters) == (whole.lines, whole.characters) == (900, whole.characters)
    assert made.character_excess == whole.character_excess
    for one, other in zip(made.buckets, whole.buckets, strict=True):
        assert (one.longest, one.lines) == (other.longest, other.lines)
        np.testing.assert_allclose(one.statistics, other.statistics, atol=1e-9)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)


def test_readings_are_not_kept_for_a_calibration() -> None:
    lines = CalibrationLines()
    readings = drawn(np.random.default_rng(7), 50)
    kept = [weakref.ref(reading.bits) for reading in readings]
    lines.add(readings)
    del readings
    assert not any(reference() is not None for reference in kept)
