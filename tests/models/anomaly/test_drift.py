import numpy as np

from nextchar.models.anomaly.calibration import UNUSUAL, drift
from nextchar.models.anomaly.calibration_builder import calibrate
from tests.models.anomaly.surprisals import random_lines


def drift_of(seed: int, *, scale: float) -> str | None:
    random = np.random.default_rng(seed)
    calibration = calibrate(random_lines(random, 300))
    _, p = calibration.score(random_lines(random, 200, scale=scale))
    return drift(200, int((p <= UNUSUAL).sum()))


def test_lines_like_the_calibration_data_are_no_drift() -> None:
    assert not any(drift_of(seed, scale=1.0) for seed in range(30))


def test_changed_lines_are_reported_with_advice() -> None:
    for seed in range(10):
        advice = drift_of(seed, scale=2.0)
        assert advice and "calibrate on recent" in advice and "mask" in advice
        assert "more false alarms than you asked for" in advice


def test_few_lines_and_a_small_unusual_share_are_no_drift() -> None:
    assert drift(99, 99) is None
    assert drift(100, 100) is not None
    assert drift(1000, 300) is None
    assert drift(1000, 301) is not None
