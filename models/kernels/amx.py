"""Matrix products with AMX, Intel's tile registers, as LLVM code.

A tile register has up to 16 rows of 64 bytes. One instruction multiplies a tile of activations (16 rows, 16
words of 32 bits) by a tile of weights (16 words, 16 columns) and adds the products to a tile of 16 x 16 sums.
Of the eight registers four hold sums: 2 x 2 tiles for more than 16 rows, which use each tile of activations
and weights twice, or else 1 x 4 tiles.

Tiles are loaded from memory with a stride, so matrices are packed as for vector instructions. The shapes of
the registers belong to a thread; a product sets them at its start and releases them at its end. Linux gives
tile registers to a process that asks: `nextchar.models.kernels.instruction_sets.has_tile_registers`.

Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
"""

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once
from numba.extending import intrinsic

from nextchar.models.kernels.jit import declare_function, inline_variant
from nextchar.models.kernels.tile import Arithmetic, element_address

PREFIX = "llvm.x86."
"""Prefix of the names of the instructions; tests replace it, to emulate them."""

TILE = 16
"""Rows of a tile, and 32-bit words of its rows."""

_BYTE, _INDEX = ir.IntType(8), ir.IntType(64)
_REGISTERS = 8
_SUMS = 4  # registers with sums
_WORD_BYTES = 4


def add_product_of(arithmetic: Arithmetic, panel: int, instruction: str, min_rows: int, add_few: Any) -> Any:
    """Return a function for compiled code: add_product(weights, first, x, sums, start, rows).

    Args:
        arithmetic: how many elements a word of activations and of weights has.
        panel: columns of a panel of the packed matrix, a multiple of 64.
        instruction: `tdpbusd` or `tdpbf16ps`.
        min_rows: fewer rows are left to `add_few`.
        add_few: a function with the same parameters as the result.
    """
    assert panel % (_SUMS * TILE) == 0
    release: Any = intrinsic(_release)
    add_tile, add_two_tiles = (_add_rows_of(n, arithmetic, panel, instruction) for n in (1, 2))
    per_word = arithmetic.activations_per_word

    @inline_variant(instruction)
    def add_product(weights, first, x, sums, start, rows):  # type: ignore[no-untyped-def]
        words = x.shape[1] // per_word
        row, end = start, start + rows
        while end - row >= min_rows:
            row_count = min(end - row, 2 * TILE)
            word = 0
            while word < words:  # all steps of 16 words, then the rest as one step
                step_words, steps = min(words - word, TILE), max((words - word) // TILE, 1)
                if row_count > TILE:
                    add_two_tiles(weights, first, x, sums, row, row_count, word, step_words, steps)
                else:
                    add_tile(weights, first, x, sums, row, row_count, word, step_words, steps)
                word += step_words * steps
            row += row_count
        if row > start:
            release()
        if row < end:
            add_few(weights, first, x, sums, row, end - row)

    return add_product


def _add_rows_of(row_tiles: int, arithmetic: Arithmetic, panel: int, instruction: str) -> Any:
    """Return a function for compiled code that multiplies one or two tiles of rows by all columns."""
    configure: Any = intrinsic(_configure(row_tiles))
    add_block: Any = intrinsic(_add_block(row_tiles, panel, arithmetic, instruction))
    per_word, word_size = arithmetic.activations_per_word, arithmetic.weights_per_word
    block_columns = _SUMS // row_tiles * TILE

    @inline_variant(f"{instruction}_{row_tiles}")
    def add_rows(weights, first, x, sums, row, rows, word, step_words, steps):  # type: ignore[no-untyped-def]
        panel_size = x.shape[1] // per_word * panel * word_size
        configure(rows, step_words)
        for column in range(0, sums.shape[1], block_columns):
            at = first + column // panel * panel_size + column % panel * word_size
            add_block(weights, at, x, row, word, steps, sums, column)

    return add_rows


def _configure(row_tiles: int) -> Any:
    """Return the typing function of an intrinsic that sets the shapes of the registers.

    The first four hold sums, then come `row_tiles` with activations; the others hold weights.
    """

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        rows, words = arguments
        first = rows if row_tiles == 1 else _INDEX(TILE)
        of_tile = [first, builder.sub(rows, first)][:row_tiles]
        full = _INDEX(TILE)
        shapes = [(of_tile[n * row_tiles // _SUMS], full) for n in range(_SUMS)]
        shapes += [(tile_rows, words) for tile_rows in of_tile]
        shapes += [(words, full)] * (_REGISTERS - len(shapes))

        # Byte 0 is the palette, 16-bit row sizes in bytes start at byte 16, rows at byte 48.
        kind = ir.ArrayType(_BYTE, 64)
        configuration = alloca_once(builder, kind)  # type: ignore[no-untyped-call]
        builder.store(kind([1] + [0] * 63), configuration)
        address = builder.bitcast(configuration, _BYTE.as_pointer())
        for n, (tile_rows, row_words) in enumerate(shapes):
            row_bytes = builder.trunc(builder.mul(row_words, _INDEX(_WORD_BYTES)), _BYTE)
            builder.store(row_bytes, builder.gep(address, [_INDEX(16 + 2 * n)]))
            builder.store(builder.trunc(tile_rows, _BYTE), builder.gep(address, [_INDEX(48 + n)]))
        _call(builder, "ldtilecfg", address)
        return context.get_dummy_value()

    def typed(_: Any, rows: Any, words: Any) -> Any:
        """Set shapes for `rows` rows of activations, and `words` words of them per step."""
        del rows, words
        return types.void(types.intp, types.intp), code

    return typed


def _release(_: Any) -> Any:
    """Give the tile registers back, which makes switching to another thread cheaper."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), code


def _add_block(row_tiles: int, panel: int, arithmetic: Arithmetic, instruction: str) -> Any:
    """Return the typing function of an intrinsic that computes row_tiles x (4 / row_tiles) tiles of sums."""

    def typed(
        _: Any, weights: Any, at: Any, x: Any, row: Any, word: Any, steps: Any, sums: Any, column: Any
    ) -> Any:
        """Add x[row:, word:] times the columns at weights[at] to sums[row:, column:].

        A step multiplies as many words as are configured, 16 if there are several steps. At least one step.
        """
        del at, row, word, steps, column
        index = types.intp
        signature = types.void(weights, index, x, index, index, index, sums, index)
        return signature, partial(_emit_block, row_tiles, panel, arithmetic, instruction)

    return typed


def _emit_block(
    row_tiles: int,
    panel: int,
    arithmetic: Arithmetic,
    instruction: str,
    context: Any,
    builder: Any,
    signature: Any,
    arguments: Any,
) -> Any:
    _, at, _, row, first_word, steps, _, column = arguments
    weights, x, sums = (
        context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 6)
    )
    columns = _SUMS // row_tiles
    activation_registers = range(_SUMS, _SUMS + row_tiles)
    weight_registers = range(_SUMS + row_tiles, _REGISTERS)
    sums_stride = _row_bytes(builder, sums, _WORD_BYTES)
    x_stride = _row_bytes(builder, x, _WORD_BYTES // arithmetic.activations_per_word)
    weights_stride = _INDEX(panel * _WORD_BYTES)
    places = [
        element_address(builder, sums, row, r * TILE, builder.add(column, _INDEX(c * TILE)), _BYTE)
        for r in range(row_tiles)
        for c in range(columns)
    ]
    for register, place in enumerate(places):
        _call(builder, "tileloadd64", _BYTE(register), place, sums_stride)
    entry = builder.block
    loop, end = builder.append_basic_block("steps"), builder.append_basic_block("end")
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(_INDEX)
    step.add_incoming(_INDEX(0), entry)
    word = builder.add(first_word, builder.mul(step, _INDEX(TILE)))
    element = builder.mul(word, _INDEX(arithmetic.activations_per_word))
    for r, register in enumerate(activation_registers):
        place = element_address(builder, x, row, r * TILE, element, _BYTE)
        _call(builder, "tileloadd64", _BYTE(register), place, x_stride)
    at_word = builder.add(at, builder.mul(word, _INDEX(panel * arithmetic.weights_per_word)))
    for c in range(columns):
        register = weight_registers[c % len(weight_registers)]
        element = builder.add(at_word, _INDEX(c * TILE * arithmetic.weights_per_word))
        place = builder.bitcast(builder.gep(weights.data, [element]), _BYTE.as_pointer())
        _call(builder, "tileloadd64", _BYTE(register), place, weights_stride)
        for r, activations in enumerate(activation_registers):
            _call(builder, instruction, _BYTE(r * columns + c), _BYTE(activations), _BYTE(register))
    next_step = builder.add(step, _INDEX(1))
    step.add_incoming(next_step, loop)
    builder.cbranch(builder.icmp_signed("<", next_step, steps), loop, end)

    builder.position_at_end(end)
    for register, place in enumerate(places):
        _call(builder, "tilestored64", _BYTE(register), place, sums_stride)
    return context.get_dummy_value()


def _row_bytes(builder: Any, array: Any, element_bytes: int) -> Any:
    return builder.mul(builder.extract_value(array.shape, 1), _INDEX(element_bytes))


def _call(builder: Any, instruction: str, *arguments: Any) -> None:
    types_of = [argument.type for argument in arguments]
    builder.call(declare_function(builder, PREFIX + instruction, ir.VoidType(), types_of), arguments)
