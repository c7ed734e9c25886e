"""The inner loop of a matrix product as LLVM code: some rows of activations times a panel of a packed matrix.

LLVM's vectorizer uses neither the instructions that add several products per lane (dot products of bytes or
of bfloat16 numbers), nor does it keep the right number of sums in registers. So this one loop is emitted
instruction by instruction.

Activations and weights are read in 32-bit words; a word holds as many consecutive elements of a column as one
instruction multiplies per lane.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

MultiplyAdd = Callable[[Any, Any, Any], Any]
"""(sums, activations, weights), a vector of words each -> sums."""


class Arithmetic(NamedTuple):
    """The element types of one kind of product, and the operation on vector registers."""

    lanes: int
    """32-bit sums per vector register."""
    activations_per_word: int
    """Array elements per 32-bit word."""
    weights_per_word: int
    sum_type: Any
    """LLVM type of one sum."""
    multiply_add: Callable[[Any], MultiplyAdd]
    """LLVM builder -> the operation."""


def tile(rows: int, vectors: int, panel: int, arithmetic: Arithmetic, *, is_x_packed: bool = False) -> Any:
    """Return the typing function of an intrinsic that keeps rows * vectors registers of sums.

    Args:
        rows: rows of activations.
        vectors: registers of columns.
        panel: columns of a panel of the packed matrix, at least those of the tile.
        arithmetic: the operation.
        is_x_packed: activations are transposed: rows of x are columns of a packed matrix, of one panel.
    """

    def typed(
        _: Any, weights: Any, at: Any, x: Any, x_at: Any, words: Any, sums: Any, row: Any, column: Any
    ) -> Any:
        """Add words of activations from element x_at on times the columns from weights[at] on.

        To sums[row : row + rows, column:]. The array elements `at` and `x_at` are those of the first row
        and word.
        """
        del at, x_at, words, row, column
        place = types.intp
        signature = types.void(weights, place, x, place, place, sums, place, place)
        return signature, partial(_emit, rows, vectors, panel, arithmetic, is_x_packed)

    return typed


def words_of(lanes: int) -> ir.VectorType:
    """Return the LLVM type of a register of 32-bit words."""
    return ir.VectorType(ir.IntType(32), lanes)


_INDEX = ir.IntType(64)


def _emit(
    rows: int,
    vectors: int,
    panel: int,
    arithmetic: Arithmetic,
    is_x_packed: bool,
    context: Any,
    builder: Any,
    signature: Any,
    arguments: Any,
) -> Any:
    _, at, _, x_at, words, _, row, column = arguments
    weights, x, sums = (
        context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)
    )
    lanes = arithmetic.lanes
    sums_type = ir.VectorType(arithmetic.sum_type, lanes)
    addresses = [
        [
            element_address(builder, sums, row, r, builder.add(column, _INDEX(v * lanes)), sums_type)
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
    running = [[builder.phi(sums_type) for _ in range(vectors)] for _ in range(rows)]

    x_word = builder.mul(word, _INDEX(panel if is_x_packed else arithmetic.activations_per_word))
    x_row = _INDEX(1) if is_x_packed else builder.extract_value(x.shape, 1)

    @cache
    def activations_of(r: int) -> Any:
        element = builder.add(builder.add(x_at, builder.mul(x_row, _INDEX(r))), x_word)
        address = builder.bitcast(builder.gep(x.data, [element]), ir.IntType(32).as_pointer())
        return _broadcast(builder, _load(builder, address), lanes)

    word_size = _INDEX(panel * arithmetic.weights_per_word)
    at_word = builder.add(at, builder.mul(word, word_size))

    @cache
    def weights_of(v: int) -> Any:
        element = builder.add(at_word, _INDEX(v * lanes * arithmetic.weights_per_word))
        address = builder.gep(weights.data, [element])
        return _load(builder, builder.bitcast(address, words_of(lanes).as_pointer()))

    multiply_add = arithmetic.multiply_add(builder)
    for r, v in _order(rows, vectors):
        running[r][v].add_incoming(totals[r][v], entry)
        totals[r][v] = multiply_add(running[r][v], activations_of(r), weights_of(v))
        running[r][v].add_incoming(totals[r][v], loop)
    next_word = builder.add(word, _INDEX(1))
    word.add_incoming(next_word, loop)
    builder.cbranch(builder.icmp_signed("<", next_word, words), loop, end)

    builder.position_at_end(end)
    for of_row, values in zip(addresses, totals, strict=True):
        for address, value in zip(of_row, values, strict=True):
            builder.store(value, address).align = 4
    return context.get_dummy_value()


def _order(rows: int, vectors: int) -> list[tuple[int, int]]:
    """Return the (row, vector) of all sums so that few operands need registers at the same time."""
    if rows <= vectors:
        return [(r, v) for v in range(vectors) for r in range(rows)]
    return [(r, v) for r in range(rows) for v in range(vectors)]


def element_address(builder: Any, array: Any, row: Any, offset: int, column: Any, element: Any) -> Any:
    """Return a pointer to [row + offset, column] of a C-contiguous 2-D array, of type `element`."""
    width = builder.extract_value(array.shape, 1)
    start = builder.mul(builder.add(row, _INDEX(offset)), width)
    return builder.bitcast(builder.gep(array.data, [builder.add(start, column)]), element.as_pointer())


def _load(builder: Any, address: Any, align: int = 1) -> Any:
    value = builder.load(address)
    value.align = align
    return value


def _broadcast(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector with the 32-bit `value` in every lane."""
    undefined = ir.Constant(words_of(lanes), ir.Undefined)
    first_lane = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first_lane, undefined, ir.Constant(words_of(lanes), [0] * lanes))
