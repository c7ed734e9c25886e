"""Checks and times the variants of the products on this processor: run by `nextchar.models.kernels.variants`.

    python -m nextchar.models.kernels.measurement [--first PRODUCT] [PRODUCT:VARIANT to skip …]

Prints a `variants.Measurement` as a JSON line before each variant, so that a crash can be attributed, and
another one after it. The variants for any processor are only run if no other passed. With `--first` only one
product is run, until a variant passes. What is compiled here is cached for the kernels.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nextchar.models.kernels.product_kernels import (
    BFLOAT16,
    FLOAT32,
    INT8,
    ProductKernel,
    available,
    compiled_product,
)
from nextchar.models.kernels.variants import Measurement

PRODUCTS = {"int8": INT8, "float32": FLOAT32, "bfloat16": BFLOAT16}

_K, _N = 256, 1024  # the recurrent weights of 256 units
_CHECKED = ((11, 260), (39, 260))  # rows and K that need every kind of tile, whole and in part
_TIMED_ROWS = {"int8": (1, 16), "float32": (16,), "bfloat16": (16,)}
_SECONDS = 0.02  # per number of rows


def main(skipped: list[str], first: str | None = None) -> None:
    """Print the measurements of the available variants but the skipped ones.

    Args:
        skipped: of the form PRODUCT:VARIANT.
        first: the only product; the first of its variants that passes is the last.
    """
    for product, kernels in PRODUCTS.items():
        if first in {product, None}:
            _measure_product(product, kernels, skipped, only_first=first is not None)


def _measure_product(
    product: str, kernels: Sequence[ProductKernel], skipped: list[str], *, only_first: bool
) -> None:
    has_passed = False
    for kernel in available(kernels):
        is_superfluous = has_passed and (only_first or not kernel.features)
        if is_superfluous or f"{product}:{kernel.name}" in skipped:
            continue
        _print(Measurement(product, kernel.name))
        measurement = measured(product, kernel)
        has_passed = has_passed or not measurement.failure
        _print(measurement)


def measured(product: str, kernel: ProductKernel) -> Measurement:
    """Compile a variant, compare it with NumPy and time it."""
    try:
        add_product = compiled_product(product, kernel)
    except Exception as failure:  # noqa: BLE001  # of many kinds
        return Measurement(product, kernel.name, failure=f"it cannot be compiled: {failure}"[:300])
    tolerance = 0.0 if product == "int8" else 1e-4
    for rows, k in _CHECKED:
        weights, x, expected = operands(product, kernel, rows, k)
        sums = np.zeros_like(expected)
        add_product(weights, 0, x, sums, 0, rows)
        error = float(np.abs(sums.astype(np.float64) - expected).max() / np.abs(expected).max())
        if not error <= tolerance:
            return Measurement(product, kernel.name, failure=f"its products are wrong by {error:.1g}")
    speeds = {}
    for rows in _TIMED_ROWS[product]:
        weights, x, sums = operands(product, kernel, rows, _K)
        seconds = _fastest(lambda: add_product(weights, 0, x, sums, 0, rows))  # noqa: B023
        speeds[str(rows)] = round(rows * _K * _N / seconds / 1e9, 1)
    return Measurement(product, kernel.name, giga_per_s=speeds)


def operands(product: str, kernel: ProductKernel, rows: int, depth: int) -> tuple[Any, Any, Any]:
    """Return random packed weights (depth, N), activations and their product, as one variant takes them."""
    random = np.random.default_rng(0)
    k = kernel.arithmetic.activations_per_word
    if product == "int8":
        units, bytes_ = (
            random.integers(-127, 128, shape, np.int32) for shape in ((rows, depth), (depth, _N))
        )
        units += kernel.zero_point
        return _packed(bytes_.astype(np.int8), kernel.panel, k), units.astype(np.uint8), units @ bytes_
    x, weights = (random.normal(size=shape).astype(np.float32) for shape in ((rows, depth), (depth, _N)))
    if product == "float32":
        return _packed(weights, kernel.panel, k), x, x @ weights
    x_bits, bits = ((array.view(np.uint32) >> 16).astype(np.uint16) for array in (x, weights))
    x, weights = ((array.astype(np.uint32) << 16).view(np.float32) for array in (x_bits, bits))
    return _packed(bits, kernel.panel, k).view(np.uint32), x_bits, x @ weights


def _packed(weights: Any, panel: int, k: int) -> Any:
    """Return (K, N) as panels (N / panel, K / k, panel, k), flat."""
    depth, columns = weights.shape
    panels = weights.reshape(depth // k, k, columns // panel, panel).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(panels).ravel()


def _fastest(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of many calls, which other load on the machine changes least."""
    best, deadline = float("inf"), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < deadline:
        call()
        best = min(best, time.perf_counter() - started)
    return best


def _print(measurement: Measurement) -> None:
    print(json.dumps(asdict(measurement)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", choices=PRODUCTS)
    parser.add_argument("skipped", nargs="*")
    main(**vars(parser.parse_args()))
