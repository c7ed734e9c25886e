"""The inner loop of a matrix product as LLVM code: some rows of activations times a panel of a packed matrix.

LLVM's vectorizer uses neither the instructions that add several products per lane (VNNI, bfloat16 dot
products), nor does it keep the right number of sums in registers. So this one loop is emitted instruction by
instruction. On a processor without such an instruction the same sums are computed in plain steps.

A panel has LANES * `vectors` columns. Activations and weights are read in 32-bit words; a word holds as many
consecutive elements of a column as one instruction multiplies per lane.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

LANES = 16
"""32-bit sums per vector register."""

INTEGERS = ir.VectorType(ir.IntType(32), LANES)
FLOATS = ir.VectorType(ir.FloatType(), LANES)

MultiplyAdd = Callable[[Any, Any, Any], Any]
"""(sums, activations, weights), a vector of LANES words each -> sums."""


class ProductFormat(NamedTuple):
    """The element types of one kind of product."""

    activations_per_word: int
    """Array elements per 32-bit word."""
    weights_per_word: int
    sums: Any
    """LLVM type of a vector of sums."""
    multiply_add: Callable[[Any, Any], MultiplyAdd]
    """(numba target context, LLVM builder) -> the operation."""


def tile(rows: int, vectors: int, format_of: Callable[[Any], ProductFormat]) -> Any:
    """Return the typing function of an intrinsic that keeps rows * vectors registers of sums.

    Args:
        rows: rows of activations.
        vectors: vectors of LANES columns.
        format_of: numba type of the weights array -> its format.
    """

    def typed(_: Any, weights: Any, at: Any, x: Any, row: Any, words: Any, sums: Any, column: Any) -> Any:
        """Add x[row : row + rows] times the panel at weights[at] to sums[row : row + rows, column:]."""
        del at, row, words, column
        signature = types.void(weights, types.intp, x, types.intp, types.intp, sums, types.intp)
        return signature, partial(_emit, rows, vectors, format_of(weights))

    return typed


_INDEX = ir.IntType(64)


def _emit(
    rows: int,
    vectors: int,
    product: ProductFormat,
    context: Any,
    builder: Any,
    signature: Any,
    arguments: Any,
) -> Any:
    _, at, _, row, words, _, column = arguments
    weights, x, sums = (
        context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)
    )
    addresses = [
        [
            _address(builder, sums, row, r, builder.add(column, _INDEX(v * LANES)), product.sums)
            for v in range(vectors)
        ]
        for r in range(rows)
    ]
    totals = [[_load(builder, address, 4) for address in of_row] for of_row in addresses]
    entry = builder.block
    loop, end = builder.append_basic_block("words"), builder.append_basic_block("end")
    builder.branch(loop)

    builder.position_at_end(loop)
    word = builder.phi(_INDEX)
    word.add_incoming(_INDEX(0), entry)
    running = [[builder.phi(product.sums) for _ in range(vectors)] for _ in range(rows)]
    activations = []
    for r in range(rows):
        element = builder.mul(word, _INDEX(product.activations_per_word))
        address = _address(builder, x, row, r, element, ir.IntType(32))
        activations.append(_broadcast(builder, _load(builder, address)))
    multiply_add = product.multiply_add(context, builder)
    panel = builder.add(at, builder.mul(word, _INDEX(vectors * LANES * product.weights_per_word)))
    for v in range(vectors):
        element = builder.add(panel, _INDEX(v * LANES * product.weights_per_word))
        address = builder.gep(weights.data, [element])
        column_words = _load(builder, builder.bitcast(address, INTEGERS.as_pointer()))
        for r in range(rows):
            running[r][v].add_incoming(totals[r][v], entry)
            totals[r][v] = multiply_add(running[r][v], activations[r], column_words)
            running[r][v].add_incoming(totals[r][v], loop)
    next_word = builder.add(word, _INDEX(1))
    word.add_incoming(next_word, loop)
    builder.cbranch(builder.icmp_signed("<", next_word, words), loop, end)

    builder.position_at_end(end)
    for of_row, values in zip(addresses, totals, strict=True):
        for address, value in zip(of_row, values, strict=True):
            builder.store(value, address).align = 4
    return context.get_dummy_value()


def _address(builder: Any, array: Any, row: Any, offset: int, column: Any, element: Any) -> Any:
    """Return a pointer to [row + offset, column] of a C-contiguous 2-D array, of type `element`."""
    width = builder.extract_value(array.shape, 1)
    start = builder.mul(builder.add(row, _INDEX(offset)), width)
    return builder.bitcast(builder.gep(array.data, [builder.add(start, column)]), element.as_pointer())


def _load(builder: Any, address: Any, align: int = 1) -> Any:
    value = builder.load(address)
    value.align = align
    return value


def _broadcast(builder: Any, value: Any) -> Any:
    """Return a vector with the 32-bit `value` in every lane."""
    undefined = ir.Constant(INTEGERS, ir.Undefined)
    first_lane = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first_lane, undefined, ir.Constant(INTEGERS, [0] * LANES))
