import numpy as np
import pytest

from nextchar.models.anomaly.aggregate import STATISTICS, WINDOWS, peak_bits, statistics
from nextchar.models.runtime.surprisal import LineSurprisal
from tests.models.anomaly.surprisals import random_lines, surprisal


def naive(one: LineSurprisal) -> list[float]:
    """Window by window, from the definition."""
    bits = [*map(float, one.bits), *([one.end_bits] if one.has_end else [])]
    entropy = [*map(float, one.entropy), *([one.end_entropy] if one.has_end else [])]
    found = []
    for values in (bits, [b - h for b, h in zip(bits, entropy, strict=True)]):
        for window in WINDOWS:
            filled = values + [0.0] * (window - len(values))
            found.append(max(sum(filled[i : i + window]) / window for i in range(len(filled) - window + 1)))
        found.append(sum(values) / len(values) if values else 0.0)
    return found


def test_statistics_agree_with_their_definitions() -> None:
    lines = [
        *random_lines(np.random.default_rng(0), 50),
        surprisal([]),
        surprisal([], end=3.0),
        surprisal([2.0, 5.0]),
    ]
    np.testing.assert_allclose(statistics(lines), [naive(one) for one in lines], atol=1e-5)


def test_statistics_of_a_line_do_not_depend_on_others() -> None:
    lines = random_lines(np.random.default_rng(1), 20)
    together = statistics(lines)
    np.testing.assert_allclose(together, np.concatenate([statistics([one]) for one in lines]), atol=1e-9)
    np.testing.assert_allclose(together[::-1], statistics(lines[::-1]), atol=1e-9)


def test_surprisal_equal_to_entropy_is_no_excess() -> None:
    random_id = surprisal([4.0] * 20, [4.0] * 20)
    found = dict(zip(STATISTICS, statistics([random_id])[0], strict=True))
    assert found["bits_line"] == pytest.approx(4.0)
    assert found["excess_line"] == found["excess_1"] == pytest.approx(0.0)


def test_empty_lines_have_statistics_of_zero() -> None:
    assert statistics([]).shape == (0, len(STATISTICS))
    assert not statistics([surprisal([]), surprisal([])]).any()
    assert peak_bits(np.empty(0, np.float32)) == 0
    assert peak_bits(np.array([3.0], np.float32)) == 3


def test_peak_is_the_mean_of_the_two_highest_characters() -> None:
    assert peak_bits(np.array([1, 9, 2, 5], np.float32)) == 7
    assert peak_bits(np.array([1, 9, 2, 6], np.float32), count=3) == pytest.approx(17 / 3)
