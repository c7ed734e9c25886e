"""Every variant of the matrix products that this processor can run, compared with NumPy.

Those for ARM64 are compiled on every processor.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding, ir
from numba import njit, types
from numba.core.registry import cpu_target

from nextchar.models.kernels.lstm_arguments import GROUP, pack, padded_columns
from nextchar.models.kernels.product_kernels import (
    BFLOAT16,
    FLOAT32,
    INT8,
    ProductKernel,
    add_product_of,
    add_transposed_product_of,
    available,
)
from nextchar.models.kernels.tile import tile

_PROGRAM = """
import pathlib, sys
import numpy as np
from nextchar.models.kernels.compile_cache import use_cache_folder
from nextchar.models.kernels.product_kernels import FLOAT32, available, compiled_product
use_cache_folder(pathlib.Path(sys.argv[1]))
for kernel in available(FLOAT32):
    if kernel.name in sys.argv[2:]:
        add_product = compiled_product("float32", kernel)
        weights, x = np.ones(8 * kernel.panel, np.float32), np.ones((11, 8), np.float32)
        sums = np.zeros((11, kernel.panel), np.float32)
        add_product(weights, 0, x, sums, 0, len(x))
        assert (sums == 8).all(), (kernel.name, sums)
"""


def test_a_process_can_load_variants_that_others_compiled(tmp_path: Path) -> None:
    names = [kernel.name for kernel in available(FLOAT32)]
    for compiled in (*([name] for name in names), names):
        subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path), *compiled], check=True)


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


@pytest.mark.parametrize("kernel", available(BFLOAT16), ids=lambda kernel: kernel.name)
def test_bfloat16_products_are_correct_for_every_number_of_rows(kernel: ProductKernel) -> None:
    add_product = add_product_of(kernel)

    @njit("void(uint32[:,:,::1], uint16[:,::1], float32[:,::1])")
    def run(packed, x, sums):  # type: ignore[no-untyped-def]
        add_product(packed, 0, x, sums, 0, len(x))

    random = np.random.default_rng(0)
    pairs, n = 7, 2 * kernel.panel
    weights, weight_bits = bfloat16(random.normal(size=(2 * pairs, n)))
    packed = weight_bits.reshape(pairs, 2, 2, kernel.panel).transpose(2, 0, 3, 1)
    for rows in range(1, 14):
        x, x_bits = bfloat16(random.normal(size=(rows, 2 * pairs)))
        sums = np.ones((rows, n), np.float32)
        run(np.ascontiguousarray(packed).view(np.uint32)[..., 0], x_bits, sums)
        np.testing.assert_allclose(sums, 1 + x @ weights, rtol=1e-5, atol=1e-5)


def sums_with_transposed_product(
    kernel: ProductKernel, x: np.ndarray, packed: np.ndarray, *, rows: int
) -> np.ndarray:
    """Return ones to which X' W was added, for packed X and W."""
    sums = np.ones((rows, len(packed) * kernel.panel), np.float32)
    compiled_transposed_product(kernel)(x, packed, sums)
    return sums


@cache
def compiled_transposed_product(kernel: ProductKernel) -> Callable[..., Any]:
    """Return the product for any number of rows, compiled once."""
    add_transposed_product = add_transposed_product_of(kernel)

    @njit
    def run(x, packed, sums):  # type: ignore[no-untyped-def]
        add_transposed_product(x, packed, sums)

    return run


@pytest.mark.parametrize("kernel", available(FLOAT32), ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("rows", [1, 6, 70])
def test_transposed_float32_products_are_correct(kernel: ProductKernel, rows: int) -> None:
    random, panel, k = np.random.default_rng(0), kernel.panel, 300
    x, weights = (random.normal(size=(k, n * panel)).astype("f") for n in (-(-rows // panel), 2))
    packed_x, packed = (
        np.ascontiguousarray(one.reshape(k, -1, panel).transpose(1, 0, 2)) for one in (x, weights)
    )
    sums = sums_with_transposed_product(kernel, packed_x, packed, rows=rows)
    np.testing.assert_allclose(sums, 1 + x[:, :rows].T @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", available(BFLOAT16), ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("rows", [1, 6, 70])
def test_transposed_bfloat16_products_are_correct(kernel: ProductKernel, rows: int) -> None:
    random, panel, pairs = np.random.default_rng(0), kernel.panel, 300
    (x, packed_x), (weights, packed) = (
        (numbers, bits.reshape(pairs, 2, -1, panel).transpose(2, 0, 3, 1))
        for numbers, bits in (
            bfloat16(random.normal(size=(2 * pairs, n * panel))) for n in (-(-rows // panel), 2)
        )
    )
    words = (np.ascontiguousarray(one).view(np.uint32)[..., 0] for one in (packed_x, packed))
    sums = sums_with_transposed_product(kernel, *words, rows=rows)
    np.testing.assert_allclose(sums, 1 + x[:, :rows].T @ weights, rtol=1e-4, atol=1e-3)


def bfloat16(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers truncated to bfloat16, as float32 and as uint16."""
    bits = numbers.astype(np.float32).view(np.uint32) >> 16
    return (bits << 16).view(np.float32), bits.astype(np.uint16)


@pytest.mark.parametrize(
    ("kernels", "name", "instruction", "element_types"),
    [
        (INT8, "dotprod", "sdot", (types.int8, types.uint8, types.int32)),
        (FLOAT32, "neon", "fmla", (types.float32, types.float32, types.float32)),
        (BFLOAT16, "neon", "bfdot", (types.uint32, types.uint16, types.float32)),
    ],
)
def test_tiles_for_arm64_use_its_instructions_and_keep_sums_in_registers(
    kernels: tuple[ProductKernel, ...], name: str, instruction: str, element_types: tuple[types.Type, ...]
) -> None:
    (kernel,) = (kernel for kernel in kernels if kernel.name == name)
    for rows, vectors in kernel.tiles:
        assembly = arm64_assembly(kernel, rows, vectors, element_types)
        _, loop = assembly.split(".LBB0_1:")
        loop, _ = loop.split("b.", 1)
        assert loop.count(f"\t{instruction}\t") == rows * vectors
        assert "[sp" not in loop


def arm64_assembly(
    kernel: ProductKernel, rows: int, vectors: int, element_types: tuple[types.Type, ...]
) -> str:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    weights, x, sums = (
        types.Array(element, dimensions, "C")
        for element, dimensions in zip(element_types, (1, 2, 2), strict=True)
    )
    index = types.intp
    signature, emit = tile(rows, vectors, kernel.panel, kernel.arithmetic)(
        None, weights, index, x, index, index, sums, index, index
    )
    context, module = cpu_target.target_context, ir.Module()
    arguments = [context.get_value_type(argument) for argument in signature.args]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(context, builder, signature, function.args)
    builder.ret_void()
    features = ",".join(f"+{feature}" for feature in kernel.features)
    machine = target.create_target_machine(features=features, opt=3)
    parsed = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed))
