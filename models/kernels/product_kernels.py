"""The matrix products of this package, in a variant for each kind of processor.

A product adds activations (M, K) times a packed matrix (K, N) to sums (M, N):

    INT8       int8 times int8, int32 sums; a sum of integers is exact in any order, so a row's result depends
               neither on the batch it is computed in nor on the processor
    FLOAT32    float32 throughout
    BFLOAT16   bfloat16 times bfloat16, float32 sums

A packed matrix is a sequence of panels (N / panel, K / k, panel, k), padded with zeros; k consecutive
elements of a column are a 32-bit word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from nextchar.models.kernels import amx
from nextchar.models.kernels.instruction_sets import target_features
from nextchar.models.kernels.jit import compiled, declare_function, inline_variant
from nextchar.models.kernels.lstm_arguments import GROUP
from nextchar.models.kernels.tile import Arithmetic, MultiplyAdd, tile, words_of


@dataclass(frozen=True)
class ProductKernel:
    """One way to compute a product."""

    name: str
    features: frozenset[str]
    """LLVM names of the features that a processor must have."""
    arithmetic: Arithmetic
    panel: int
    """Columns of a panel."""
    tiles: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """(rows, registers of columns) for many, some and single rows. Their sums must fit into registers."""
    zero_point: int = 0
    """INT8: what is added to activations, which are unsigned where it is not 0."""
    amx_instruction: str = ""
    """The instruction on AMX's tile registers, for `min_amx_rows` rows or more."""
    min_amx_rows: int = 8


# ---- operations on vector registers


def _int8(lanes: int, multiply_add: Callable[[Any], MultiplyAdd]) -> Arithmetic:
    return Arithmetic(lanes, GROUP, GROUP, ir.IntType(32), multiply_add)


def _floats(lanes: int) -> Arithmetic:
    vector = ir.VectorType(ir.FloatType(), lanes)

    def multiply_add(builder: Any) -> MultiplyAdd:
        def fused(total: Any, x: Any, weights: Any) -> Any:
            product = builder.fmul(
                builder.bitcast(x, vector), builder.bitcast(weights, vector), flags=("contract",)
            )
            return builder.fadd(total, product, flags=("contract",))

        return fused

    return Arithmetic(lanes, 1, 1, ir.FloatType(), multiply_add)


class _BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat type, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


def _bfloat16(lanes: int, instruction: str) -> Arithmetic:
    sums, pairs = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(_BFloat16(), 2 * lanes)

    def multiply_add(builder: Any) -> MultiplyAdd:
        dot = declare_function(builder, instruction, sums, [sums, pairs, pairs])
        return lambda total, x, weights: builder.call(
            dot, [total, builder.bitcast(x, pairs), builder.bitcast(weights, pairs)]
        )

    return Arithmetic(lanes, 2, 1, ir.FloatType(), multiply_add)


def _unsigned_dot(lanes: int) -> Arithmetic:
    """VNNI: four products of unsigned and signed bytes per lane."""
    words = words_of(lanes)

    def multiply_add(builder: Any) -> MultiplyAdd:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        dot = declare_function(builder, name, words, [words] * 3)
        return lambda total, unsigned, signed: builder.call(dot, [total, unsigned, signed])

    return _int8(lanes, multiply_add)


def _signed_dot(builder: Any) -> MultiplyAdd:
    """ARM: four products of signed bytes per lane."""
    words, signed = words_of(4), ir.VectorType(ir.IntType(8), 16)
    dot = declare_function(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", words, [words, signed, signed])
    return lambda total, x, weights: builder.call(
        dot, [total, builder.bitcast(x, signed), builder.bitcast(weights, signed)]
    )


def _signs_moved(builder: Any) -> MultiplyAdd:
    """AVX2: x * w = |x| * (w with the sign of x), since it multiplies unsigned by signed bytes.

    It adds two products in 16 bits with saturation, which 2 * 127 * 127 does not reach. -128 does not occur.
    """
    size = 32
    small, medium, words = (ir.VectorType(ir.IntType(bits), 8 * size // bits) for bits in (8, 16, 32))
    absolute = declare_function(builder, "llvm.abs.v32i8", small, [small, ir.IntType(1)])
    sign = declare_function(builder, "llvm.x86.avx2.psign.b", small, [small, small])
    multiply = declare_function(builder, "llvm.x86.avx2.pmadd.ub.sw", medium, [small, small])
    add_pairs = declare_function(builder, "llvm.x86.avx2.pmadd.wd", words, [medium, medium])
    ones = ir.Constant(medium, [1] * (size // 2))

    def multiply_add(total: Any, x: Any, weights: Any) -> Any:
        x, weights = builder.bitcast(x, small), builder.bitcast(weights, small)
        unsigned, signed = builder.call(absolute, [x, ir.IntType(1)(0)]), builder.call(sign, [weights, x])
        pairs = builder.call(multiply, [unsigned, signed])
        return builder.add(total, builder.call(add_pairs, [pairs, ones]))

    return multiply_add


def _plain_dot(builder: Any) -> MultiplyAdd:
    """Any processor: sign extension, products, and the sums of four by halves."""
    lanes = 4
    small, wide = (ir.VectorType(ir.IntType(bits), lanes * GROUP) for bits in (8, 32))

    def multiply_add(total: Any, x: Any, weights: Any) -> Any:
        x, weights = (builder.sext(builder.bitcast(value, small), wide) for value in (x, weights))
        products = builder.mul(x, weights)
        while products.type.count > lanes:
            half = products.type.count // 2
            evens, odds = (
                ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(i, 2 * half, 2))) for i in (0, 1)
            )
            products = builder.add(
                builder.shuffle_vector(products, products, evens),
                builder.shuffle_vector(products, products, odds),
            )
        return builder.add(total, products)

    return multiply_add


# ---- variants, the widest first


def _kernel(name: str, features: str, *arguments: Any, **named: Any) -> ProductKernel:
    return ProductKernel(name, frozenset(features.split()), *arguments, **named)


def _with_amx(kernel: ProductKernel, features: str, instruction: str) -> ProductKernel:
    """Return a variant with the same packed matrices that multiplies many rows with AMX."""
    return replace(
        kernel, name="amx", features=kernel.features.union(features.split()), amx_instruction=instruction
    )


_AVX512_VNNI = _kernel(
    "avx512vnni", "avx512vnni", _unsigned_dot(16), 128, ((3, 8), (2, 8), (1, 8)), zero_point=128
)
_AVX512_BF16 = _kernel(
    "avx512bf16",
    "avx512bf16",
    _bfloat16(16, "llvm.x86.avx512bf16.dpbf16ps.512"),
    64,
    ((6, 4), (4, 4), (1, 4)),
)

INT8 = (
    _with_amx(_AVX512_VNNI, "amx-tile amx-int8", "tdpbusd"),
    _AVX512_VNNI,
    _kernel("avxvnni", "avxvnni", _unsigned_dot(8), 64, ((3, 4), (2, 4), (1, 8)), zero_point=128),
    _kernel("avx2", "avx2", _int8(8, _signs_moved), 64, ((2, 4), (2, 4), (1, 8))),
    _kernel("dotprod", "dotprod", _int8(4, _signed_dot), 32, ((3, 8), (2, 8), (1, 8))),
    _kernel("generic", "", _int8(4, _plain_dot), 16, ((2, 4), (2, 4), (1, 4))),
)
FLOAT32 = (
    _kernel("avx512", "avx512f", _floats(16), 64, ((6, 4), (4, 4), (1, 4))),
    _kernel("avx2", "avx2 fma", _floats(8), 16, ((6, 2), (4, 2), (1, 2))),
    _kernel("neon", "neon", _floats(4), 16, ((6, 4), (4, 4), (1, 4))),
    _kernel("generic", "", _floats(4), 8, ((4, 2), (4, 2), (1, 2))),
)
BFLOAT16 = (
    _with_amx(_AVX512_BF16, "amx-tile amx-bf16", "tdpbf16ps"),
    _AVX512_BF16,
    _kernel(
        "neon",
        "bf16 neon",
        _bfloat16(4, "llvm.aarch64.neon.bfdot.v4f32.v8bf16"),
        16,
        ((6, 4), (4, 4), (1, 4)),
    ),
)

_BLOCK_WORDS = 256
"""Words of a column that are read at once: a block of a panel stays in the L1 cache for all rows."""

_BLOCK_ROWS = 48
"""Rows of activations that are read at once, which stay in the L2 cache for all panels."""


def available(kernels: Sequence[ProductKernel]) -> list[ProductKernel]:
    """Return the variants for the processor that kernels are compiled for."""
    features = target_features()
    return [kernel for kernel in kernels if kernel.features <= features]


def add_product_of(kernel: ProductKernel) -> Any:
    """Return a function for compiled code: add_product(weights, first, x, sums, start, rows).

    It adds x[start : start + rows] (., K) times the packed matrix at element `first` of `weights`, with
    sums.shape[1] columns, to the same rows of sums.
    """
    add_product = _add_product_of_vectors(kernel)
    if not kernel.amx_instruction:
        return add_product
    return amx.add_product_of(
        kernel.arithmetic, kernel.panel, kernel.amx_instruction, kernel.min_amx_rows, add_product
    )


def add_transposed_product_of(kernel: ProductKernel) -> Any:
    """Return a function for compiled code: add_transposed_product(x, weights, sums).

    It adds the product of X' (M, K) and W (K, N) to sums (M, N or more). X (K, M) and W are packed matrices,
    with 32-bit elements: (M / panel, words, panel) and (N / panel, words, panel).
    """
    if kernel.amx_instruction:
        return _add_transposed_product_of_amx(kernel)
    panel, add_block = kernel.panel, _add_block_of(kernel, is_x_packed=True)

    @inline_variant(kernel.name)
    def add_transposed_product(x, weights, sums):  # type: ignore[no-untyped-def]
        words = weights.shape[1]
        flat_x, flat_weights = x.reshape(x.size), weights.reshape(weights.size)
        for column in range(0, sums.shape[1], panel):
            for k in range(0, words, _BLOCK_WORDS):
                at = column * words + k * panel
                count = min(_BLOCK_WORDS, words - k)
                for row in range(0, len(sums), panel):
                    end = min(row + panel, len(sums))
                    x_at = row * words + k * panel
                    add_block(flat_weights, at, flat_x, x_at, 1, count, sums, row, end, column)

    return add_transposed_product


def _add_transposed_product_of_amx(kernel: ProductKernel) -> Any:
    """As above, but rows of activations are made contiguous first, as tile registers need them."""
    panel, add_product = kernel.panel, add_product_of(kernel)

    @inline_variant(kernel.name)
    def add_transposed_product(x, weights, sums):  # type: ignore[no-untyped-def]
        words = weights.shape[1]
        rows = np.empty((len(sums), words), x.dtype)
        for m in range(len(rows)):
            for k in range(words):
                rows[m, k] = x[m // panel, k, m % panel]
        add_product(weights.reshape(weights.size), 0, rows.view(np.uint16), sums, 0, len(sums))

    return add_transposed_product


def _add_product_of_vectors(kernel: ProductKernel) -> Any:
    per_word, word = kernel.arithmetic.activations_per_word, kernel.arithmetic.weights_per_word
    panel, add_block = kernel.panel, _add_block_of(kernel)

    @inline_variant(kernel.name)
    def add_product(weights, first, x, sums, start, rows):  # type: ignore[no-untyped-def]
        width = x.shape[1]
        words = width // per_word
        for begin in range(start, start + rows, _BLOCK_ROWS):
            end = min(begin + _BLOCK_ROWS, start + rows)
            for column in range(0, sums.shape[1], panel):
                for k in range(0, words, _BLOCK_WORDS):
                    at = first + (column * words + k * panel) * word
                    count = min(_BLOCK_WORDS, words - k)
                    x_at = begin * width + k * per_word
                    add_block(weights, at, x, x_at, width, count, sums, begin, end, column)

    return add_product


def _add_block_of(kernel: ProductKernel, *, is_x_packed: bool = False) -> Any:
    """Return a function for compiled code that adds `words` words for some rows and one panel.

    Activations of `row` begin at element x_at of x, those of the next row `width` elements later.
    """
    arithmetic, panel, word = kernel.arithmetic, kernel.panel, kernel.arithmetic.weights_per_word
    (many, _), (some, _), _ = kernel.tiles
    columns_of_many, columns_of_some, columns_of_one = (
        vectors * arithmetic.lanes for _, vectors in kernel.tiles
    )
    tile_many, tile_some, tile_one = (
        intrinsic(tile(rows, vectors, panel, arithmetic, is_x_packed=is_x_packed))
        for rows, vectors in kernel.tiles
    )

    @inline_variant(f"{kernel.name}_{is_x_packed}")
    def add_block(weights, at, x, x_at, width, words, sums, row, end, column):  # type: ignore[no-untyped-def]
        while end - row >= many + some or end - row == many:
            for c in range(0, panel, columns_of_many):
                tile_many(weights, at + c * word, x, x_at, words, sums, row, column + c)
            row += many
            x_at += many * width
        while end - row >= some:
            for c in range(0, panel, columns_of_some):
                tile_some(weights, at + c * word, x, x_at, words, sums, row, column + c)
            row += some
            x_at += some * width
        while row < end:
            for c in range(0, panel, columns_of_one):
                tile_one(weights, at + c * word, x, x_at, words, sums, row, column + c)
            row += 1
            x_at += width

    return add_block


_SIGNATURES = {
    "int8": "void(int8[::1], int64, uint8[:,::1], int32[:,::1], int64, int64)",
    "float32": "void(float32[::1], int64, float32[:,::1], float32[:,::1], int64, int64)",
    "bfloat16": "void(uint32[::1], int64, uint16[:,::1], float32[:,::1], int64, int64)",
}

_TRANSPOSED_SIGNATURES = {
    "float32": "void(float32[:,:,::1], float32[:,:,::1], float32[:,::1])",
    "bfloat16": "void(uint32[:,:,::1], uint32[:,:,::1], float32[:,::1])",
}


def compiled_product(product: str, kernel: ProductKernel) -> Any:
    """Compile a variant, or load it from the cache: add_product(weights, first, x, sums, start, rows).

    For Python and for compiled code; see `product_kernels.add_product_of`.

    Args:
        product: int8, float32 or bfloat16.
        kernel: the variant.
    """
    name = f"{product}_product"
    return _compiled(_call.__code__, name, add_product_of(kernel), _SIGNATURES[product], kernel)


def compiled_transposed_product(product: str, kernel: ProductKernel) -> Any:
    """Compile a variant, or load it from the cache: add_transposed_product(x, weights, sums).

    For Python and for compiled code; see `product_kernels.add_transposed_product_of`.

    Args:
        product: float32 or bfloat16.
        kernel: the variant.
    """
    name, signature = f"{product}_transposed_product", _TRANSPOSED_SIGNATURES[product]
    return _compiled(_call_transposed.__code__, name, add_transposed_product_of(kernel), signature, kernel)


def _compiled(code: CodeType, name: str, add_product: Any, signature: str, kernel: ProductKernel) -> Any:
    # Not a closure, whose variables numba would make part of the cache's key.
    function = FunctionType(code, {"__name__": __name__, "_add_product": add_product}, name)
    function.__qualname__ = name
    return compiled(signature, variant=kernel.name)(function)


_add_product: Any = None  # each copy of `_call` has its own


def _call(weights, first, x, sums, start, rows):  # type: ignore[no-untyped-def]
    _add_product(weights, first, x, sums, start, rows)


def _call_transposed(x, weights, sums):  # type: ignore[no-untyped-def]
    _add_product(x, weights, sums)
