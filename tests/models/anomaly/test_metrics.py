import numpy as np
import pytest

from nextchar.models.anomaly.metrics import (
    FALSE_ALARMS,
    auroc,
    average_precision,
    detection_quality,
    recall_at,
    roc,
)


@pytest.mark.parametrize("ties", [True, False])
def test_metrics_agree_with_scikit_learn(ties: bool) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # loads SciPy and pandas

    random = np.random.default_rng(0)
    anomalous = random.random(500) < 0.1
    scores = random.normal(0, 1, 500) + 1.5 * anomalous
    if ties:
        scores = scores.round()
    assert auroc(scores, anomalous) == pytest.approx(roc_auc_score(anomalous, scores))
    assert average_precision(scores, anomalous) == pytest.approx(average_precision_score(anomalous, scores))
    false, true, _ = roc_curve(anomalous, scores)
    for rate in FALSE_ALARMS:
        assert recall_at(scores, anomalous, rate) == pytest.approx(true[false <= rate + 1e-12].max())


def test_perfect_and_useless_scores() -> None:
    anomalous = np.array([False] * 8 + [True] * 2)
    found = detection_quality(np.arange(10.0), anomalous)
    assert (found.auroc, found.average_precision, found.recall) == (1.0, 1.0, (1.0, 1.0, 1.0))
    same = detection_quality(np.zeros(10), anomalous)
    assert (same.auroc, same.average_precision, same.recall) == (0.5, 0.2, (0.0, 0.0, 0.0))


def test_roc_by_hand() -> None:
    anomalous = np.array([True, False, True, True])
    assert roc(np.array([4.0, 3, 2, 1]), anomalous) == [
        (0, 0),
        (0, 0.333333),
        (1, 0.333333),
        (1, 0.666667),
        (1, 1),
    ]


def test_roc_runs_from_corner_to_corner_with_few_points() -> None:
    random = np.random.default_rng(0)
    anomalous = random.random(5000) < 0.5
    points = roc(random.normal(0, 1, 5000) + anomalous, anomalous)
    assert points[0] == (0, 0) and points[-1] == (1, 1) and len(points) <= 200
    assert points == sorted(points)


@pytest.mark.parametrize(("rate", "recall"), [(0.28, 0.5), (0.29, 1.0), (0.3, 1.0)])
def test_just_as_many_false_alarms_as_the_rate_permits_may_occur(rate: float, recall: float) -> None:
    """0.29 * 100 is less than 29 in floating point."""
    scores = np.array([99.5, *range(100, 0, -1), 71.5])
    anomalous = np.array([True, *[False] * 100, True])
    assert recall_at(scores - 0.1, anomalous, rate) == recall


def test_points_of_the_roc_are_evenly_spaced_along_the_curve() -> None:
    random = np.random.default_rng(1)
    anomalous = random.random(20_000) < 0.5
    points = np.array(roc(random.normal(0, 1, 20_000) + 3 * anomalous, anomalous, points=50))
    assert len(points) == 50
    np.testing.assert_allclose(np.abs(np.diff(points, axis=0)).sum(1), 2 / 49, atol=0.003)
