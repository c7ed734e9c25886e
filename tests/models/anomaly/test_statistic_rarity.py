import numpy as np
import pytest

from nextchar.models.anomaly.tail import BITS_TOLERANCE, leave_one_out_rarity, rarity

REFERENCE = np.array([[1.0, 2.0, 3.0, 4.0]])
SPREAD = np.array([0.15])


@pytest.mark.parametrize(
    ("value", "at_least"),
    [(0.0, 4), (2.5, 2), (3.02, 2), (3.04, 1), (4.0, 1)],  # the tolerance is 0.03
)
def test_rarity_is_the_share_of_calibration_lines_as_high(value: float, at_least: int) -> None:
    found = rarity(np.array([[value]]), REFERENCE, SPREAD)
    assert found[0, 0] == pytest.approx(-np.log2((1 + at_least) / 5))


@pytest.mark.parametrize("beyond", [0.01, 1.0, 7.5])
def test_rarity_grows_by_a_bit_per_spread_above_the_highest(beyond: float) -> None:
    values = np.array([[4.0 + BITS_TOLERANCE[0] + beyond]])
    assert rarity(values, REFERENCE, SPREAD)[0, 0] == pytest.approx(np.log2(5) + beyond / 0.2)
    identical = rarity(values, np.full((1, 4), 4.0), np.zeros(1))
    assert identical[0, 0] == pytest.approx(np.log2(5) + beyond / 0.05)


def test_tolerances_are_smaller_for_means_and_smallest_for_counts() -> None:
    expected = [0.03, 0.01, 0.0025, 0.003] * 3 + [0.001] * 4
    np.testing.assert_allclose(BITS_TOLERANCE, expected)


def test_a_template_is_not_rarer_than_it_says_itself() -> None:
    values = np.array([[9.0] * 12 + [1.5, 40.0]])
    found = rarity(values, np.zeros((14, 9)), np.zeros(14))
    assert found[0, 12] == 1.5 and found[0, 13] == 40.0
    assert (found[0, :12] > 9.0).all()


def test_each_calibration_line_is_compared_with_the_others_alone() -> None:
    random = np.random.default_rng(0)
    values = random.exponential(1.0, (12, 3))
    values[3] = values[7]  # a line that is there twice is as high as its twin
    ordered, spread = np.sort(values.T), values.std(0)
    found = leave_one_out_rarity(values, ordered, spread)
    for i, line in enumerate(values):
        others = np.sort(np.delete(values, i, 0).T)
        np.testing.assert_allclose(found[i], rarity(line[None], others, spread)[0])
