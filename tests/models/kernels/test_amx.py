"""Products with AMX: on an emulator of the tile registers, and on this processor's if it has them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from nextchar.models.kernels import amx
from nextchar.models.kernels.instruction_sets import target_features
from nextchar.models.kernels.lstm_arguments import GROUP, pack, padded_columns
from nextchar.models.kernels.product_kernels import (
    BFLOAT16,
    INT8,
    ProductKernel,
    add_product_of,
    add_transposed_product_of,
)
from nextchar.models.kernels.tile import words_of
from tests.models.kernels import amx_emulator
from tests.models.kernels.amx_emulator import Emulator

ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 40)  # at the ends of tiles: the emulator takes long
ROOT = Path(__file__).parents[3]
LANES = 16
WORDS = words_of(LANES)
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INT8_AMX, BFLOAT16_AMX = INT8[0], BFLOAT16[0]


@pytest.fixture(params=["emulator", "processor"])
def emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Emulator | None:
    """Replace the tile instructions; None to run those of the processor."""
    if request.param == "processor":
        if not (INT8_AMX.features | BFLOAT16_AMX.features) <= target_features():
            pytest.skip("this processor has no AMX, or Linux denies it")
        return None
    monkeypatch.setattr(amx, "PREFIX", amx_emulator.PREFIX)
    emulator = Emulator()
    emulator.install()
    return emulator


def constant(value: int) -> ir.Constant:
    return ir.Constant(WORDS, [value] * LANES)


def unsigned_dot(builder: Any) -> Any:
    """VNNI's operation without VNNI."""

    def multiply_add(total: Any, unsigned: Any, signed: Any) -> Any:
        for bits in (0, 8, 16, 24):
            x = builder.and_(builder.lshr(unsigned, constant(bits)), constant(255))
            weights = builder.ashr(builder.shl(signed, constant(24 - bits)), constant(24))
            total = builder.add(total, builder.mul(x, weights))
        return total

    return multiply_add


def bfloat16_dot(builder: Any) -> Any:
    """VDPBF16PS's operation without AVX-512 BF16."""

    def multiply_add(total: Any, x: Any, weights: Any) -> Any:
        first, second = (
            builder.fmul(*(builder.bitcast(half(value), FLOATS) for value in (x, weights)))
            for half in (
                lambda value: builder.shl(value, constant(16)),
                lambda value: builder.and_(value, constant(0xFFFF0000)),
            )
        )
        return builder.fadd(builder.fadd(total, first), second)

    return multiply_add


def with_plain_vectors(kernel: ProductKernel, multiply_add: Any) -> ProductKernel:
    return replace(kernel, arithmetic=kernel.arithmetic._replace(multiply_add=multiply_add))


def expected_blocks(rows: int) -> int:
    """Return how many blocks of up to 32 rows use tiles."""
    return rows // 32 + (rows % 32 >= INT8_AMX.min_amx_rows)


@pytest.mark.parametrize("panels", [1, 3])
def test_int8_products_are_exact_for_every_number_of_rows(panels: int, emulator: Emulator | None) -> None:
    kernel = with_plain_vectors(INT8_AMX, unsigned_dot) if emulator else INT8_AMX
    add_product = add_product_of(kernel)

    @njit("void(int8[::1], int64, uint8[:,::1], int32[:,::1], int64, int64)", nogil=True)
    def run(weights, first, x, sums, start, rows):  # type: ignore[no-untyped-def]
        add_product(weights, first, x, sums, start, rows)

    random = np.random.default_rng(0)
    n = panels * kernel.panel - 3
    for k in (4, 68) if emulator else (4, 60, 64, 68, 256):
        weights = random.integers(-127, 128, (k, n)).astype(np.int8)
        weights[:, 0], weights[:, 1] = 127, -127
        packed = np.concatenate([np.full(5 * GROUP, 99, np.int8), pack(weights, kernel.panel)])
        for rows in ROWS if emulator else range(1, 41):
            x = random.integers(-127, 128, (rows + 2, k))
            x[0], x[-1] = 127, -127
            unsigned = (x + kernel.zero_point).astype(np.uint8)
            sums = random.integers(-99, 100, (rows + 2, padded_columns(n, kernel.panel))).astype(np.int32)
            expected = sums.copy()
            expected[1 : rows + 1, :n] += unsigned[1 : rows + 1].astype(np.int32) @ weights
            configured_before = emulator.executed["ldtilecfg"] if emulator else 0
            run(packed, 5 * GROUP, unsigned, sums, 1, rows)
            np.testing.assert_array_equal(sums, expected)
            if emulator:
                assert emulator.faults == []
                assert emulator.shapes is None, "tile registers were not released"
                passes = (k >= 64) + (k % 64 > 0)
                configured = emulator.executed["ldtilecfg"] - configured_before
                assert configured == passes * expected_blocks(rows)


def test_bfloat16_products_equal_numpy_for_every_number_of_rows(emulator: Emulator | None) -> None:
    kernel = with_plain_vectors(BFLOAT16_AMX, bfloat16_dot) if emulator else BFLOAT16_AMX
    add_product = add_product_of(kernel)
    panel = BFLOAT16_AMX.panel

    @njit("void(uint32[:,:,::1], uint16[:,::1], float32[:,::1])", nogil=True)
    def run(packed, x, sums):  # type: ignore[no-untyped-def]
        add_product(packed, 0, x, sums, 0, len(x))

    random = np.random.default_rng(0)
    for k in (2, 37) if emulator else (2, 31, 32, 37, 128):
        weights = random.normal(size=(k, 2 * panel - 3)).astype(np.float32)
        packed = packed_bfloat16(weights, panel)
        for rows in ROWS if emulator else range(1, 41):
            x = bfloat16(random.normal(size=(rows, 2 * packed.shape[1])))
            x[:, k:] = 0
            sums = np.ones((rows, 2 * panel), np.float32)
            run(packed, x, sums)
            expected = 1 + floats(x)[:, :k] @ rounded(weights)
            np.testing.assert_allclose(sums[:, :-3], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(sums[:, -3:], 1)
    if emulator:
        assert emulator.faults == []
        assert emulator.executed["tdpbf16ps"] > 0


def bfloat16(x: Any) -> Any:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_a_transposed_bfloat16_product_equals_one_of_rounded_factors(emulator: Emulator | None) -> None:
    kernel = with_plain_vectors(BFLOAT16_AMX, bfloat16_dot) if emulator else BFLOAT16_AMX
    add_transposed_product = add_transposed_product_of(kernel)

    @njit("void(uint32[:,:,::1], uint32[:,:,::1], float32[:,::1])", nogil=True)
    def run(x, packed, sums):  # type: ignore[no-untyped-def]
        add_transposed_product(x, packed, sums)

    random = np.random.default_rng(0)
    for k, m in ((2, 70), (37, 5), (128, 64)):
        x = random.normal(size=(k, m)).astype(np.float32)
        weights = random.normal(size=(k, kernel.panel)).astype(np.float32)
        sums = np.ones((m, kernel.panel), np.float32)
        run(packed_bfloat16(x, kernel.panel), packed_bfloat16(weights, kernel.panel), sums)
        np.testing.assert_allclose(sums, 1 + rounded(x).T @ rounded(weights), rtol=1e-5, atol=1e-5)
    if emulator:
        assert emulator.faults == []


def packed_bfloat16(matrix: Any, panel: int) -> Any:
    """Return a float32 matrix (K, N) as a packed matrix of bfloat16 pairs."""
    k, n = matrix.shape
    padded = np.zeros((-(-k // 2), 2, -(-n // panel), panel), np.float32)
    padded.reshape(2 * len(padded), -1)[:k, :n] = matrix
    pairs = np.ascontiguousarray(bfloat16(rounded(padded)).transpose(2, 0, 3, 1))
    return pairs.view(np.uint32)[..., 0]


def rounded(x: Any) -> Any:
    """Return float32 numbers rounded to bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def floats(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


COMPILE = """
from numba import njit
from nextchar.models.kernels.product_kernels import BFLOAT16, INT8, add_product_of

int8, bfloat16 = add_product_of(INT8[0]), add_product_of(BFLOAT16[0])

@njit("void(int8[::1], int64, uint8[:,::1], int32[:,::1], int64, int64)", nogil=True)
def run_int8(weights, first, x, sums, start, rows):
    int8(weights, first, x, sums, start, rows)

@njit("void(uint32[:,:,::1], int64, uint16[:,::1], float32[:,::1], int64, int64)", nogil=True)
def run_bfloat16(weights, first, x, sums, start, rows):
    bfloat16(weights, first, x, sums, start, rows)

for function in (run_int8, run_bfloat16):
    print("FUNCTION", *function.inspect_asm().values())
"""


def test_llvm_compiles_tile_instructions_and_vector_instructions_for_few_rows(tmp_path: Path) -> None:
    features = (
        *("sse2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16"),
        *("amx-tile", "amx-int8", "amx-bf16"),
    )
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    _, int8, bfloat16 = done.stdout.split("FUNCTION")
    for code, on_tiles, on_vectors in ((int8, "tdpbusd", "vpdpbusd"), (bfloat16, "tdpbf16ps", "vdpbf16ps")):
        for instruction in ("ldtilecfg", "tileloadd", on_tiles, "tilestored", "tilerelease", on_vectors):
            assert f"\t{instruction}" in code


def test_emulator_rejects_what_a_processor_rejects() -> None:
    emulator = Emulator()
    with pytest.raises(amx_emulator.Fault, match="no configuration"):
        emulator.tileloadd64(0, 0, 64)
    configuration = np.zeros(64, np.uint8)
    for byte, value, message in ((0, 0, "palette"), (1, 1, "reserved"), (48, 17, "shape"), (16, 65, "shape")):
        configuration[:] = 0
        configuration[[0, 16, 48]] = 1, 64, 16
        configuration[byte] = value
        with pytest.raises(amx_emulator.Fault, match=message):
            emulator.ldtilecfg(configuration.ctypes.data)
    configuration[:] = 0
    configuration[0] = 1
    configuration[16:22:2], configuration[48:51] = (64, 32, 64), (16, 16, 16)
    emulator.ldtilecfg(configuration.ctypes.data)
    for registers, message in (
        ((0, 1, 2), "shapes"),
        ((0, 0, 2), "twice"),
        ((0, 3, 2), "no shape"),
        ((0, 8, 2), "register 8"),
    ):
        with pytest.raises(amx_emulator.Fault, match=message):
            emulator.tdpbusd(*registers)
