"""Every variant of the matrix products that this processor can run, compared with NumPy."""

import numpy as np
import pytest
from numba import njit

from models.kernels.int8_packing import GROUP, pack, padded_columns
from models.kernels.product_kernels import FLOAT32, INT8, ProductKernel, add_product_of, available


@pytest.mark.parametrize("kernel", available(INT8), ids=lambda kernel: kernel.name)
def test_int8_products_are_exact_for_every_number_of_rows(kernel: ProductKernel) -> None:
    add_product = add_product_of(kernel)

    @njit("void(int8[::1], uint8[:,::1], int32[:,::1], int64, int64)")
    def run(weights, x, sums, start, rows):  # type: ignore[no-untyped-def]
        add_product(weights, 0, x, sums, start, rows)

    random = np.random.default_rng(0)
    k, n = 5 * GROUP, kernel.panel + 3
    weights = random.integers(-127, 128, (k, n)).astype(np.int8)
    weights[:, 0], weights[:, 1] = 127, -127
    for rows in range(1, 12):
        x = random.integers(-127, 128, (rows + 2, k))
        x[0], x[-1] = 127, -127
        sums = random.integers(-99, 100, (rows + 2, padded_columns(n, kernel.panel))).astype(np.int32)
        expected = sums.copy()
        expected[1 : rows + 1, :n] += (x + kernel.zero_point)[1 : rows + 1] @ weights
        run(pack(weights, kernel.panel), (x + kernel.zero_point).astype(np.uint8), sums, 1, rows)
        np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("kernel", available(FLOAT32), ids=lambda kernel: kernel.name)
def test_float32_products_are_correct_for_every_number_of_rows(kernel: ProductKernel) -> None:
    add_product = add_product_of(kernel)

    @njit("void(float32[:,:,::1], float32[:,::1], float32[:,::1])")
    def run(packed, x, sums):  # type: ignore[no-untyped-def]
        add_product(packed, 0, x, sums, 0, len(x))

    random = np.random.default_rng(0)
    weights = random.normal(size=(7, 2 * kernel.panel)).astype(np.float32)
    packed = np.ascontiguousarray(weights.reshape(7, 2, kernel.panel).transpose(1, 0, 2))
    for rows in range(1, 14):
        x = random.normal(size=(rows, 7)).astype(np.float32)
        sums = np.ones((rows, 2 * kernel.panel), np.float32)
        run(packed, x, sums)
        np.testing.assert_allclose(sums, 1 + x @ weights, rtol=1e-5, atol=1e-5)
