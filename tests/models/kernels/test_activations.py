"""The elementwise functions compared with NumPy in double precision."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numba import njit

from nextchar.models.kernels import activations, intrinsics

Function = Callable[[np.float32], np.float32]


@cache
def compiled(inlined: Function) -> Function:
    """Return a function that Python can call; compiled by the first test, not while tests are collected."""

    def call(x: np.float32) -> np.float32:
        return inlined(x)

    return njit("float32(float32)")(call)


@pytest.mark.parametrize(
    ("function", "reference", "end", "error"),
    [
        (activations.exp, np.exp, 38, "rel"),
        (activations.exp2, np.exp2, 38, "rel"),
        (activations.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 38, "rel"),
        (activations.tanh, np.tanh, 10, "abs"),
    ],
)
def test_the_error_is_below_three_in_ten_million(
    function: Function, reference: Callable[[float], float], end: float, error: str
) -> None:
    call = compiled(function)
    for x in np.linspace(-end, end, 2003).astype(np.float32):
        assert call(x) == pytest.approx(reference(float(x)), **{error: 3e-7})


def test_arguments_are_clamped() -> None:
    exp, exp2 = compiled(activations.exp), compiled(activations.exp2)
    assert exp2(np.float32(1000)) == 2.0**40
    assert exp2(np.float32(-1000)) == 2.0**-40
    assert np.isfinite(exp(np.float32(1000)))
    assert exp(np.float32(-1000)) > 0


def test_each_operation_is_rounded_as_on_any_processor() -> None:
    """With fused multiply-add the last bits would differ, and a seed would give other texts elsewhere."""
    exp = compiled(activations.exp)
    for x in np.linspace(-20, 20, 501).astype(np.float32):
        assert exp(x) == _exp(x)


def _exp(x: np.float32) -> np.float32:
    """`activations.exp` in NumPy, which rounds each operation."""
    one = np.float32
    n = (x * one(1.44269504) + one(12582912)) - one(12582912)
    r = x - n * one(0.693359375) + n * one(2.12194440e-4)
    p = one(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + one(c)
    return np.ldexp(p * r * r + r + one(1), int(n)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 8, 13, 41])
def test_sums_of_products_have_one_order(count: int) -> None:
    a, b = np.random.default_rng(count).normal(size=(2, count)).astype(np.float32)

    def call(a: Any, b: Any) -> Any:
        return intrinsics.dot(a, b, count)

    products, whole = a * b, count // 8 * 8
    sums = np.zeros(8, np.float32)
    for block in products[:whole].reshape(-1, 8):
        sums += block
    for width in (4, 2, 1):
        sums = sums[:width] + sums[width:]
    for product in products[whole:]:
        sums = sums + product
    assert njit("float32(float32[::1], float32[::1])")(call)(a, b) == sums[0]
