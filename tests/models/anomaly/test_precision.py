import numpy as np
import pytest

from nextchar.models.anomaly.aggregate import statistics
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.runtime.surprisal import LineSurprisal, higher
from tests.models.anomaly.surprisals import random_lines


def perturbed(lines: list[LineSurprisal], random: np.random.Generator, by: float) -> list[LineSurprisal]:
    """The same lines with the rounding of another precision."""

    def off(values: np.ndarray) -> np.ndarray:
        return (values + random.uniform(-by, by, values.shape)).astype(np.float32)

    return [
        LineSurprisal(off(r.bits), off(r.entropy), r.has_end, r.end_bits + by, r.end_entropy) for r in lines
    ]


def test_no_statistic_is_below_that_of_either_precision() -> None:
    random = np.random.default_rng(1)
    first = random_lines(random, 40)
    second = perturbed(first, random, 0.3)
    both = statistics(higher(first, second))
    assert (both >= np.maximum(statistics(first), statistics(second)) - 1e-5).all()
    np.testing.assert_allclose(statistics(higher(first, first)), statistics(first), atol=1e-5)


def test_duplicates_stay_normal_in_the_other_precision() -> None:
    random = np.random.default_rng(2)
    kinds = random_lines(random, 5)
    int8 = perturbed(kinds, random, 0.3)
    calibration = [i % 5 for i in range(120)]
    alone = calibrate([kinds[i] for i in calibration])
    both = calibrate(higher([kinds[i] for i in calibration], [int8[i] for i in calibration]))
    assert (alone.score(int8)[1] <= 0.01).any()
    assert not (both.score(int8)[1] <= 0.01).any()
    assert not (both.score(kinds)[1] <= 0.01).any()


def test_both_precisions_must_have_read_the_same_lines() -> None:
    lines = random_lines(np.random.default_rng(3), 3)
    for fewer in (lines[:2], []):
        with pytest.raises(ValueError, match="argument"):
            higher(lines, fewer)


def test_the_higher_surprisal_and_the_higher_excess_count_apart() -> None:
    first = LineSurprisal(*(np.array([v], np.float32) for v in (3.0, 1.0)), True, 5.0, 4.0)
    second = LineSurprisal(*(np.array([v], np.float32) for v in (2.5, 0.25)), True, 4.5, 2.0)
    [both] = higher([first], [second])
    assert (both.bits[0], both.entropy[0], both.end_bits, both.end_entropy) == (3.0, 0.75, 5.0, 2.5)
