from typing import Any

import numpy as np
import pytest

from nextchar.models.anomaly.tail import MAX_EXCESSES, MIN_EXCESSES, SIGNIFICANCE, Tail, _fit, fit_tail


def pareto() -> Any:
    """Return SciPy's generalized Pareto distribution; every process that collects tests would import it."""
    from scipy.stats import genpareto

    return genpareto


@pytest.mark.parametrize("shape", [-0.4, 0.0, 1e-7, 0.3])
def test_probabilities_and_quantiles_are_those_of_the_generalized_pareto_distribution(shape: float) -> None:
    tail = Tail(start=2.0, share=0.1, shape=shape, scale=1.5, fit_p=1.0)
    expected = pareto()(c=shape, loc=2.0, scale=1.5)
    scores = np.array([2.0, 2.1, 4.0, 5.7, 9.0])  # for the negative shape the last is beyond its end
    np.testing.assert_allclose(tail.probability(scores), 0.1 * expected.sf(scores), rtol=1e-5, atol=1e-15)
    np.testing.assert_array_equal(tail.probability(np.array([-3.0, 1.9])), 0.1)
    for probability in (0.1, 0.03, 1e-6):
        assert tail.quantile(probability) == pytest.approx(float(expected.isf(probability / 0.1)), rel=1e-5)


def reference_fit(excesses: np.ndarray) -> tuple[float, float]:
    """Hosking and Wallis 1987, whose k is the negative shape; an exponential one if that excludes a score."""
    n = len(excesses)
    mean = sum(excesses) / n
    b = sum((n + 0.35 - i) * y for i, y in enumerate(sorted(excesses), 1)) / n**2
    shape, scale = 2 - mean / (mean - 2 * b), 2 * mean * b / (mean - 2 * b)
    if 1 + shape * max(excesses) / scale <= 0:
        return 0.0, mean
    return shape, scale


def reference_distance(excesses: np.ndarray, shape: float, scale: float) -> float:
    """Anderson and Darling 1954."""
    below = np.clip(pareto().cdf(np.sort(excesses), shape, scale=scale), 1e-12, 1 - 1e-12)
    n = len(excesses)
    i = np.arange(1, n + 1)
    return float(-n - ((2 * i - 1) * np.log(below) + (2 * n + 1 - 2 * i) * np.log(1 - below)).sum() / n)


@pytest.mark.parametrize(("shape", "count"), [(-0.3, 509), (0.4, 600)])
def test_fit_is_that_of_the_reference(shape: float, count: int) -> None:
    scores = np.sort(pareto().isf(np.random.default_rng(count).random(count), shape))
    tail = fit_tail(scores)
    assert tail is not None
    highest = int(count * 0.1)
    start = scores[-highest - 1]
    own = reference_fit(scores[-highest:] - start)
    assert (tail.start, tail.share) == (start, highest / count)
    assert (tail.shape, tail.scale) == pytest.approx(own, rel=1e-9)
    distance, random = reference_distance(scores[-highest:] - start, *own), np.random.default_rng(0)
    worse = 0
    for _ in range(200):
        drawn = pareto().isf(1 - random.random(highest), own[0], scale=own[1])
        worse += reference_distance(drawn, *reference_fit(drawn)) >= distance
    assert tail.fit_p == (1 + worse) / 201 >= SIGNIFICANCE


def test_tail_has_a_bounded_number_of_scores() -> None:
    scores = np.sort(np.random.default_rng(0).exponential(1.0, 12 * MAX_EXCESSES))
    tail = fit_tail(scores)
    assert tail is not None
    assert (tail.start, tail.share) == (scores[-MAX_EXCESSES - 1], MAX_EXCESSES / len(scores))


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


def test_scores_that_equal_the_start_of_the_tail_are_no_excesses() -> None:
    scores = np.sort(np.random.default_rng(1).exponential(1.0, 10 * MIN_EXCESSES))
    assert fit_tail(scores) is not None
    scores[-MIN_EXCESSES - 1] = scores[-MIN_EXCESSES]
    assert fit_tail(scores) is None


def test_a_distribution_that_ends_before_the_largest_score_is_replaced_by_an_exponential_one() -> None:
    excesses = np.linspace(0.02, 1.0, 50)
    shape, scale = _fit(excesses)
    assert shape < -0.5 and -scale / shape > 1.0
    excesses[-1] = 1.4
    assert reference_fit(excesses)[0] == 0
    assert _fit(excesses) == (0.0, excesses.mean())
