"""The elementwise functions compared with NumPy in double precision."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numba import njit

from nextchar.models.kernels import activations

Function = Callable[[np.float32], np.float32]


@cache
def compiled(inlined: Function) -> Function:
    """Return a function that Python can call; compiled by the first test, not while tests are collected."""

    def call(x: np.float32) -> np.float32:
        return inlined(x)

    return njit("float32(float32)")(call)


@pytest.mark.parametrize(
    ("function", "reference", "max_error"),
    [
        (activations.exp, np.exp, 3e-7),
        (activations.exp2, np.exp2, 3e-7),
        (activations.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 3e-7),
    ],
)
def test_the_relative_error_is_below_three_in_ten_million(
    function: Function, reference: Callable[[float], float], max_error: float
) -> None:
    call = compiled(function)
    for x in np.linspace(-38, 38, 2003).astype(np.float32):
        assert call(x) == pytest.approx(reference(float(x)), rel=max_error)


def test_the_error_of_tanh_is_below_three_in_ten_million() -> None:
    tanh = compiled(activations.tanh)
    for x in np.linspace(-10, 10, 2003).astype(np.float32):
        assert tanh(x) == pytest.approx(np.tanh(float(x)), abs=3e-7)


def test_arguments_are_clamped() -> None:
    exp, exp2 = compiled(activations.exp), compiled(activations.exp2)
    assert exp2(np.float32(1000)) == 2.0**40
    assert exp2(np.float32(-1000)) == 2.0**-40
    assert np.isfinite(exp(np.float32(1000)))
    assert exp(np.float32(-1000)) > 0
