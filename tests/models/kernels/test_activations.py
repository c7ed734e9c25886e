"""The elementwise functions compared with NumPy in double precision."""

from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from models.kernels import activations

Function = Callable[[np.float32], np.float32]


def callable_from_python(inlined: Function) -> Function:
    def call(x: np.float32) -> np.float32:
        return inlined(x)

    return njit("float32(float32)")(call)


exp, exp2, sigmoid, tanh = (
    callable_from_python(function)
    for function in (activations.exp, activations.exp2, activations.sigmoid, activations.tanh)
)


@pytest.mark.parametrize(
    ("function", "reference", "max_error"),
    [
        (exp, np.exp, 3e-7),
        (exp2, np.exp2, 3e-7),
        (sigmoid, lambda x: 1 / (1 + np.exp(-x)), 3e-7),
    ],
)
def test_the_relative_error_is_below_three_in_ten_million(
    function: Function, reference: Callable[[float], float], max_error: float
) -> None:
    for x in np.linspace(-38, 38, 2003).astype(np.float32):
        assert function(x) == pytest.approx(reference(float(x)), rel=max_error)


def test_the_error_of_tanh_is_below_three_in_ten_million() -> None:
    for x in np.linspace(-10, 10, 2003).astype(np.float32):
        assert tanh(x) == pytest.approx(np.tanh(float(x)), abs=3e-7)


def test_arguments_are_clamped() -> None:
    assert exp2(np.float32(1000)) == 2.0**40
    assert exp2(np.float32(-1000)) == 2.0**-40
    assert np.isfinite(exp(np.float32(1000)))
    assert exp(np.float32(-1000)) > 0
