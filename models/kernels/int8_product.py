"""Integer matrix products for int8 LSTM networks: uint8 activations times packed int8 weights, int32 sums.

A sum of integers is exact in any order, so a row's result does not depend on the batch it is computed in.
"""

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from models.kernels.int8_packing import GROUP, PANEL
from models.kernels.jit import declare_function, has_cpu_feature, inline_jit
from models.kernels.tile import INTEGERS, LANES, MultiplyAdd, ProductFormat, tile


def _multiply_add(context: Any, builder: Any) -> MultiplyAdd:
    """Return the operation that adds, in every lane, four products of unsigned and signed bytes to a sum."""
    if has_cpu_feature(context, "avx512vnni"):
        dot = declare_function(builder, "llvm.x86.avx512.vpdpbusd.512", INTEGERS, [INTEGERS] * 3)
        return lambda total, unsigned, signed: builder.call(dot, [total, unsigned, signed])
    size = LANES * GROUP
    small, wide = ir.VectorType(ir.IntType(8), size), ir.VectorType(ir.IntType(32), size)

    def in_steps(total: Any, unsigned: Any, signed: Any) -> Any:
        products = builder.mul(
            builder.zext(builder.bitcast(unsigned, small), wide),
            builder.sext(builder.bitcast(signed, small), wide),
        )
        while products.type.count > LANES:
            half = products.type.count // 2
            evens, odds = (
                ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(i, 2 * half, 2))) for i in (0, 1)
            )
            products = builder.add(
                builder.shuffle_vector(products, products, evens),
                builder.shuffle_vector(products, products, odds),
            )
        return builder.add(total, products)

    return in_steps


_FORMAT = ProductFormat(
    activations_per_word=GROUP, weights_per_word=GROUP, sums=INTEGERS, multiply_add=_multiply_add
)

_tile_1: Any
_tile_2: Any
_tile_3: Any
_tile_1, _tile_2, _tile_3 = (intrinsic(tile(rows, PANEL // LANES, lambda _: _FORMAT)) for rows in (1, 2, 3))


@inline_jit
def add_product(weights, first_panel, x, sums, start, rows):  # type: ignore[no-untyped-def]
    """Add x[start : start + rows] (., K) uint8 times a packed matrix to the same rows of sums (., N) int32.

    The matrix begins at weights[first_panel]; K is a multiple of GROUP, N of PANEL.
    """
    groups = x.shape[1] // GROUP
    size = groups * GROUP * PANEL
    for panel in range(sums.shape[1] // PANEL):
        at, column = first_panel + panel * size, panel * PANEL
        row = start
        while row + 3 <= start + rows:
            _tile_3(weights, at, x, row, groups, sums, column)
            row += 3
        if row + 2 <= start + rows:
            _tile_2(weights, at, x, row, groups, sums, column)
            row += 2
        if row < start + rows:
            _tile_1(weights, at, x, row, groups, sums, column)
