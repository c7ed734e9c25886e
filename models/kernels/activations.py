"""Exponential, logarithm, sigmoid and tanh of float32; the compiler vectorizes loops over them."""

import numpy as np

from nextchar.models.kernels.jit import inline_jit

_ROUNDING = 12582912  # 1.5 * 2**23: adding it to a float32 rounds to an integer, held in the lowest bits


@inline_jit
def exp(x):  # type: ignore[no-untyped-def]
    """e**x of a float32, to a few units in the last place; x is clamped to [-87, 88].

    2**n times a polynomial in the remainder r, |r| <= ln 2 / 2 (coefficients of Cephes, Moshier 1989).
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    shifted = x * np.float32(1.44269504) + np.float32(_ROUNDING)
    n = shifted - np.float32(_ROUNDING)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = np.float32(p * r * r + r + np.float32(1))
    power = np.float32(shifted).view(np.int32) << np.int32(23)
    return np.int32(p.view(np.int32) + power).view(np.float32)


@inline_jit
def log(x):  # type: ignore[no-untyped-def]
    """The natural logarithm of a positive, normal float32, to an absolute error of about 1e-7 near 1.

    The exponent times ln 2, plus a polynomial in m - 1 for the mantissa m, sqrt(1/2) <= m < sqrt(2)
    (coefficients of Cephes, Moshier 1989).
    """
    bits = np.float32(x).view(np.int32)
    e = np.float32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # in [0.5, 1)
    is_low = m < np.float32(0.707106781)
    e = e - np.float32(1) if is_low else e
    m = m + m if is_low else m
    r = m - np.float32(1)
    p = np.float32(7.0376836292e-2)
    p = p * r - np.float32(1.1514610310e-1)
    p = p * r + np.float32(1.1676998740e-1)
    p = p * r - np.float32(1.2420140846e-1)
    p = p * r + np.float32(1.4249322787e-1)
    p = p * r - np.float32(1.6668057665e-1)
    p = p * r + np.float32(2.0000714765e-1)
    p = p * r - np.float32(2.4999993993e-1)
    p = p * r + np.float32(3.3333331174e-1)
    square = r * r
    p = p * r * square
    p = p + e * np.float32(-2.12194440e-4) - np.float32(0.5) * square
    return np.float32(r + p + e * np.float32(0.693359375))


@inline_jit
def exp2(x):  # type: ignore[no-untyped-def]
    """2**x of a float32, to a relative error of about 2e-7; x is clamped to [-40, 40].

    As `exp`, with the polynomial of degree 5, 1 at 0, whose largest relative error is least (9e-8). A product
    of three results stays finite.
    """
    x = min(max(x, np.float32(-40)), np.float32(40))
    shifted = x + np.float32(_ROUNDING)
    r = x - (shifted - np.float32(_ROUNDING))
    p = np.float32(1.3264727e-3)
    p = p * r + np.float32(9.6715127e-3)
    p = p * r + np.float32(5.5507337e-2)
    p = p * r + np.float32(2.4022242e-1)
    p = p * r + np.float32(6.9314698e-1)
    p = np.float32(p * r + np.float32(1))
    power = np.float32(shifted).view(np.int32) << np.int32(23)
    return np.int32(p.view(np.int32) + power).view(np.float32)


@inline_jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e**-x)."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@inline_jit
def tanh(x):  # type: ignore[no-untyped-def]
    """The hyperbolic tangent, to an absolute error of about 1e-7."""
    return np.float32(2) / (np.float32(1) + exp(np.float32(-2) * x)) - np.float32(1)
