import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.anomaly.line_scores import (
    SAMPLE_LINES,
    AlertReference,
    ObservedScore,
    ScoreSample,
    censored,
    dump_sample,
    initial_sample,
    load_sample,
)
from nextchar.models.anomaly.rolling import MAX_RISE_BITS, Rebuild, Verdict, rebuild
from tests.models.anomaly.surprisals import random_lines

RATE = 0.01


class Stream:
    """Lines with exponentially distributed scores, judged by a calibration that rolls."""

    def __init__(self, seed: int = 0, *, lines: int = 1000) -> None:
        self.random = np.random.default_rng(seed)
        made = calibrate(random_lines(self.random, 50))
        quantiles = -np.log1p(-(np.arange(lines) + 0.5) / lines)
        bucket = replace(made.buckets[0], scores=quantiles, tail=None, lines=lines)
        self.stored = self.current = replace(made, buckets=(bucket,))
        self.now = 0.0
        self.sample = initial_sample(self.stored, now=0.0, random=self.random)

    @property
    def threshold(self) -> float:
        return threshold(self.current)

    def normal(self, count: int = 1000, *, shift: float = 0.0) -> list[ObservedScore]:
        """Normal lines, each flagged one with an alert of its own; `shift` is added to the scores."""
        scores = self.random.exponential(size=count) + shift
        return [self.line(score, f"normal {self.now} {i}") for i, score in enumerate(scores.tolist())]

    def line(self, score: float, alert: str, value: str = "") -> ObservedScore:
        if score <= self.threshold:
            return ObservedScore(self.now, score, 0, RATE)
        group = AlertReference(alert, alert, "0:x", value)
        return ObservedScore(self.now, censored(self.threshold), 0, RATE, group)

    def with_new_values(self, values: int, *, is_burst: bool = False) -> list[ObservedScore]:
        """Normal lines of a day, and 20 of one alert and template, that have so many values in turn."""
        lines, at = self.normal(980), 490
        for i in range(20):
            lines.insert(at if is_burst else 49 * i, self.line(9.0, "users", f"user {i % values}"))
        return [replace(line, time=self.now + 86.4 * i) for i, line in enumerate(lines)]

    def learn(
        self, batch: list[ObservedScore], verdict: Callable[[AlertReference], Verdict] = lambda _: "unknown"
    ) -> Rebuild:
        self.now += 3600
        self.current, self.sample, result = rebuild(
            self.stored,
            self.current,
            self.sample,
            batch,
            verdict=verdict,
            rate=RATE,
            now=self.now,
            random=self.random,
        )
        return result


def threshold(calibration: Calibration) -> float:
    return calibration.thresholds(RATE)[0]


def rate_at(threshold: float, *, shift: float = 0.0) -> float:
    """The share of normal lines above a threshold."""
    return float(np.exp(-max(0.0, threshold - shift)))


@pytest.mark.parametrize("slope", [0.02, -0.02])
def test_the_rate_stays_within_a_factor_of_two_while_scores_drift_slowly(slope: float) -> None:
    stream = Stream()
    rates = []
    for i in range(50):
        rates.append(rate_at(stream.threshold, shift=slope * i))
        assert stream.learn(stream.normal(shift=slope * i)).drift is None
    left_alone = rate_at(threshold(stream.stored), shift=slope * 50)
    assert not RATE / 2 <= left_alone <= RATE * 2
    assert min(rates) >= RATE / 2 and max(rates) <= RATE * 2


def test_without_drift_the_threshold_stays() -> None:
    stream = Stream(1)
    for _ in range(20):
        stream.learn(stream.normal())
        assert RATE / 1.6 <= rate_at(stream.threshold) <= RATE * 1.6


def test_flagged_lines_are_never_learned() -> None:
    stream, other = Stream(), Stream()
    batch = stream.normal()
    stream.learn(batch)
    for line in other.normal():  # the same lines, those that are flagged with far higher scores
        if line.alert:
            assert line.score == censored(other.threshold), "the score itself is not in the observation"
    other.learn(batch)
    assert threshold(stream.current) == threshold(other.current)
    kept = [line for line in stream.sample.lines if line.alert]
    assert kept and all(line.score <= censored(threshold(stream.stored)) for line in kept)


def test_an_incident_of_many_equal_lines_does_not_move_the_threshold() -> None:
    calm, hit = Stream(), Stream()
    for i in range(6):
        calm.learn(calm.normal())
        incident = [hit.line(50.0, "incident") for _ in range(2000 if i == 4 else 0)]
        assert hit.learn(hit.normal() + incident).drift is None
    assert hit.threshold == pytest.approx(calm.threshold, abs=0.2)


def test_a_batch_with_many_different_alerts_is_dropped_and_reported() -> None:
    stream = Stream()
    stream.learn(stream.normal())
    before, sample = stream.threshold, stream.sample
    result = stream.learn(stream.normal(900) + [stream.line(9.0, f"alert {i}") for i in range(100)])
    assert result.drift and "expected" in result.drift
    assert (result.learned, result.lines, stream.threshold) == (0, 1000, before)
    assert stream.sample is sample


def test_the_threshold_rises_by_a_limited_amount() -> None:
    stream = Stream()
    drifts = [stream.learn(stream.normal(shift=0.07 * i)).drift for i in range(90)]
    assert stream.threshold <= threshold(stream.stored) + MAX_RISE_BITS
    assert any(drifts[-10:])


def test_lines_of_alerts_that_are_incidents_or_suppressed_count_for_nothing() -> None:
    stream, other = Stream(), Stream()
    normal = stream.normal()
    incidents = [stream.line(9.0, f"incident {i}") for i in range(200)]

    def verdict(group: AlertReference) -> Verdict:
        return "excluded" if group.alert_id.startswith("incident") else "unknown"

    assert stream.learn(normal + incidents, verdict).drift is None
    other.learn(normal)
    assert stream.threshold == pytest.approx(other.threshold, abs=0.2)
    assert not any(line.alert and verdict(line.alert) == "excluded" for line in stream.sample.lines)


def test_a_label_that_comes_later_removes_lines_from_the_sample() -> None:
    stream = Stream()
    stream.learn([*stream.normal(), stream.line(9.0, "late"), stream.line(9.0, "late")])
    assert any(line.alert and line.alert.alert_id == "late" for line in stream.sample.lines)
    stream.learn(stream.normal(), lambda group: "excluded" if group.alert_id == "late" else "unknown")
    assert not any(line.alert and line.alert.alert_id == "late" for line in stream.sample.lines)


def test_lines_of_alerts_labeled_normal_are_learned() -> None:
    stream = Stream()
    lines = [stream.line(9.0, f"new version {i}") for i in range(200)]
    result = stream.learn(stream.normal() + lines, lambda _: "normal")
    assert result.drift is None and result.learned == 1200
    assert sum(line.score == 0 for line in stream.sample.lines) > 100  # none is more normal


def test_the_sample_is_bounded_and_mostly_of_the_newest_lines() -> None:
    stream = Stream()
    for _ in range(3):
        stream.learn(stream.normal(6000))
        stream.now += 3 * 86_400
    assert len(stream.sample) == SAMPLE_LINES
    times = np.array([line.time for line in stream.sample.lines])
    assert (times > stream.now - 4 * 86_400).mean() > 0.7


def test_a_rebuild_reports_what_it_did() -> None:
    stream = Stream()
    batch = stream.normal()
    before = stream.threshold
    result = stream.learn(batch)
    flagged = sum(line.alert is not None for line in batch)
    assert (result.at, result.lines, result.flagged) == (stream.now, 1000, flagged)
    assert (result.learned, result.rate) == (1000 - flagged, RATE)
    assert (result.old_thresholds, result.new_thresholds) == ((before,), (stream.threshold,))


def test_an_empty_batch_changes_nothing_but_the_start() -> None:
    stream = Stream()
    assert isinstance(stream.sample, ScoreSample)
    result = stream.learn([])
    assert result.drift is None and stream.threshold == pytest.approx(threshold(stream.stored), abs=0.01)


def test_an_alert_of_several_values_raises_the_threshold_as_many_alerts_do() -> None:
    many, few, one, burst = Stream(), Stream(), Stream(), Stream()
    for _ in range(5):
        assert many.learn(many.with_new_values(20)).drift is None
        few.learn(few.with_new_values(4))
        one.learn(one.with_new_values(1))
        burst.learn(burst.with_new_values(20, is_burst=True))
    assert min(many.threshold, few.threshold) > threshold(many.stored) + 0.5
    assert max(one.threshold, burst.threshold) < threshold(one.stored) + 0.35


def test_an_alert_of_several_values_must_last_for_hours_to_count_as_drift() -> None:
    stream, risen = Stream(), []
    for _ in range(24):  # an hour each
        batch = [replace(line, time=stream.now) for line in stream.with_new_values(20)]
        stream.learn(batch)
        risen.append(stream.threshold - threshold(stream.stored))
    assert max(risen[:6]) < 0.35 and risen[-1] > 0.5


def test_many_new_values_of_one_alert_are_learned_and_not_if_they_are_a_burst() -> None:
    spread, burst = Stream(), Stream()
    lines = [line for i in range(100) for line in [*spread.normal(9), spread.line(9.0, "a", f"value {i}")]]
    assert spread.learn([replace(line, time=86.4 * i) for i, line in enumerate(lines)]).drift is None
    lines = [*burst.normal(), *(burst.line(9.0, "a", f"value {i}") for i in range(100))]
    assert burst.learn([replace(line, time=86.4 * i) for i, line in enumerate(lines)]).drift is None
    assert spread.threshold > threshold(spread.stored) + 0.5
    assert burst.threshold == pytest.approx(threshold(burst.stored), abs=0.3)


def test_an_incident_of_several_new_alerts_does_not_move_the_threshold() -> None:
    calm, hit = Stream(), Stream()
    for i in range(6):
        calm.learn(calm.normal())
        lines = hit.normal()
        if i == 4:
            lines[500:500] = [hit.line(9.0, f"incident {n % 10}") for n in range(40)]
        assert hit.learn(lines).drift is None
    assert hit.threshold == pytest.approx(calm.threshold, abs=0.2)


def test_flagged_lines_get_the_scores_of_an_exponential_tail() -> None:
    stream = Stream(3, lines=300)
    level = censored(stream.threshold)
    flagged = [stream.line(9.0, f"alert {i}") for i in range(4)]
    normal = [ObservedScore(0.0, score, 0, RATE) for score in np.linspace(0.0, level, 396)]
    assert stream.learn(normal + flagged).drift is None  # 4 are expected
    observed = [line.score for line in stream.sample.lines if line.alert is None]
    levels = [line.score for line in stream.sample.lines if line.alert]
    assert levels == [level] * 4
    start = min(float(np.quantile(observed + levels, 0.9)), level)
    excess = sum(score - start for score in observed + levels if score > start)
    scale = excess / sum(score > start for score in observed)
    assert 0.2 < scale < 1.5
    tail = [level - scale * math.log(1 - i / 4) for i in range(4)]
    np.testing.assert_allclose(stream.current.buckets[0].scores, sorted(observed + tail), rtol=1e-12)


def test_a_bucket_with_too_few_lines_for_the_rate_stays_the_stored_one() -> None:
    for count, is_renewed in ((99, True), (98, False)):
        stream = Stream(lines=1000)
        other = replace(stream.stored.buckets[0], longest=5)
        stream.stored = stream.current = replace(stream.stored, buckets=(other, stream.stored.buckets[0]))
        lines = [replace(line, bucket=0) for line in stream.sample.lines[:count]]
        stream.sample = ScoreSample(
            (*lines, *(replace(line, bucket=1) for line in lines)), np.zeros(2 * count)
        )
        assert stream.learn([]).drift is None
        kept = [bucket.kept for bucket in stream.current.buckets]
        assert kept == ([count] * 2 if is_renewed else [1000] * 2)


SAMPLE = ScoreSample(
    (
        ObservedScore(1.5, 2.25, 0, 0.0),
        ObservedScore(2.5, 7.125, 3, 0.01, AlertReference("alert_1", "a <*>", "0:a", "b")),
        ObservedScore(3.5, 0.5, 1, 0.02, AlertReference("alert_2", "c", "0:c")),
    ),
    np.array([0.25, -4.0, 8.5]),
)


@pytest.mark.parametrize("sample", [SAMPLE, ScoreSample(SAMPLE.lines[:1], SAMPLE.keys[:1])])
def test_a_sample_is_read_as_it_was_written(sample: ScoreSample) -> None:
    read = load_sample(json.loads(json.dumps(dump_sample(sample))))
    assert read.lines == sample.lines
    np.testing.assert_array_equal(read.keys, sample.keys)
    assert read.keys.flags.writeable


def test_a_sample_without_lines_can_be_stored() -> None:
    read = load_sample(dump_sample(ScoreSample((), np.zeros(0))))
    assert read.lines == () and read.keys.shape == (0,)


def test_the_stored_form_stays_the_same() -> None:
    record = {
        "lines": "eJxjYACBH/ZgioHFAULzQGkmCN0gA+U/gKqDAQ6o+Ae4eLXIOveHVS32EHoKVPwClBY4AKEVHQDG4A8Q",
        "groups": {"1": ["alert_1", "a <*>", "0:a", "b"], "2": ["alert_2", "c", "0:c", ""]},
    }
    assert load_sample(record).lines == SAMPLE.lines
    assert load_sample(record).keys.tolist() == SAMPLE.keys.tolist()


def test_a_damaged_sample_is_an_error() -> None:
    record = dump_sample(SAMPLE)
    for lines in ("", record["lines"][:-8], dump_sample(ScoreSample((), np.zeros(0)))["lines"][:-4]):
        with pytest.raises(ValueError, match=r"."):
            load_sample(record | {"lines": lines})
