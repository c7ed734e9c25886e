import numpy as np
import pytest

from models.anomaly.tail import MIN_EXCESSES, fit_tail


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_parameters_of_a_pareto_tail_are_recovered(shape: float) -> None:
    random = np.random.default_rng(0)
    u = random.random(20_000)
    scores = -np.log(u) if shape == 0 else (u**-shape - 1) / shape
    tail = fit_tail(np.sort(scores))
    assert tail is not None
    assert tail.shape == pytest.approx(shape, abs=0.08)
    true = -np.log(1e-4) if shape == 0 else (1e-4**-shape - 1) / shape
    assert tail.quantile(1e-4) == pytest.approx(true, rel=0.15)


def test_probability_and_quantile_are_inverse() -> None:
    tail = fit_tail(np.sort(np.random.default_rng(0).exponential(2.0, 3000)))
    assert tail is not None
    for p in (0.05, 0.001, 1e-6):
        assert tail.probability(np.array([tail.quantile(p)]))[0] == pytest.approx(p, rel=1e-6)


def test_tail_that_does_not_fit_is_rejected() -> None:
    random = np.random.default_rng(0)
    two_kinds = np.concatenate([random.normal(0, 1, 9000), random.normal(40, 0.5, 500)])
    assert fit_tail(np.sort(two_kinds)) is None


def test_too_few_or_tied_scores_have_no_tail() -> None:
    scores = np.sort(np.random.default_rng(0).exponential(1.0, 10 * MIN_EXCESSES - 1))
    assert fit_tail(scores) is None
    assert fit_tail(np.sort(np.random.default_rng(0).integers(0, 5, 2000).astype(float))) is None


@pytest.mark.parametrize(("copies", "has_tail"), [(1, True), (2, True), (3, False)])
def test_a_tail_has_at_least_half_as_many_distinct_scores_as_it_needs(copies: int, has_tail: bool) -> None:
    scores = np.sort(np.random.default_rng(1).exponential(1.0, 10 * MIN_EXCESSES))
    top = scores[-MIN_EXCESSES:]
    top[:] = np.repeat(top[::copies], copies)[:MIN_EXCESSES]
    assert (fit_tail(scores) is not None) == has_tail
