"""Properties of calibrations on random lines: p-values, their order, and the false-alarm rate."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.anomaly.calibration import SCORE_TOLERANCE
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.runtime.surprisal import LineSurprisal
from tests.models.anomaly.surprisals import surprisal

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
