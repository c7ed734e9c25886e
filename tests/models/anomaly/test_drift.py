import numpy as np

from models.anomaly.calibration import calibrate
from models.anomaly.drift import UNUSUAL, drift
from tests.models.anomaly.surprisals import random_lines


def said(seed: int, *, scale: float) -> str | None:
    random = np.random.default_rng(seed)
    known = calibrate(random_lines(random, 300))
    _, p = known.score(random_lines(random, 200, scale=scale))
    return drift(200, int((p <= UNUSUAL).sum()))


def test_lines_like_those_of_the_calibration_are_no_drift() -> None:
    assert not any(said(seed, scale=1.0) for seed in range(30))


def test_lines_that_have_changed_are_told_with_what_to_do() -> None:
    for seed in range(10):
        told = said(seed, scale=2.0)
        assert told and "calibrate on recent" in told and "mask" in told
        assert "more false alarms than you asked for" in told


def test_few_lines_and_a_few_odd_ones_are_no_drift() -> None:
    assert drift(99, 99) is None
    assert drift(1000, 300) is None
    assert drift(1000, 301) is not None
