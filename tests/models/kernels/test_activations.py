"""The elementwise functions compared with NumPy in double precision."""

from collections.abc import Callable

import numpy as np
import pytest

from models.kernels import activations


@pytest.mark.parametrize(
    ("function", "reference", "max_error"),
    [
        (activations.exp, np.exp, 3e-7),
        (activations.exp2, np.exp2, 3e-7),
        (activations.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 3e-7),
    ],
)
def test_the_relative_error_is_below_three_in_ten_million(
    function: Callable[[np.float32], np.float32], reference: Callable[[float], float], max_error: float
) -> None:
    for x in np.linspace(-38, 38, 2003).astype(np.float32):
        assert function(x) == pytest.approx(reference(float(x)), rel=max_error)


def test_the_error_of_tanh_is_below_three_in_ten_million() -> None:
    for x in np.linspace(-10, 10, 2003).astype(np.float32):
        assert activations.tanh(x) == pytest.approx(np.tanh(float(x)), abs=3e-7)


def test_arguments_are_clamped() -> None:
    assert activations.exp2(np.float32(1000)) == 2.0**40
    assert activations.exp2(np.float32(-1000)) == 2.0**-40
    assert np.isfinite(activations.exp(np.float32(1000)))
    assert activations.exp(np.float32(-1000)) > 0
