"""Compiling functions of arrays to machine code with numba, and what kernels share.

`compiled` makes a function that other code calls, `part` one that those consist of. Compiled code is kept on
disk for the next process: in a folder of `models.kernels.compile_cache`, where NUMBA_CACHE_DIR says, or else
in `__pycache__`. Where nothing can be written it is compiled again, which takes some seconds. Numba notices
changes of a function's own file only. So all that is compiled together is in one file. The folders of
`models.kernels.compile_cache` change with this file too; where they are not used (benchmarks), touch the
files that import this one after a change of it. Every function has its signatures, so that processes that
start at once write the same files.

The compiler's vectorizer finds neither the instructions that do several products and sums in each lane of a
register, nor how many sums to keep in registers at a time. So that one loop, the `tile`, is written out in
the compiler's own terms (LLVM's). Where a processor lacks an instruction, the same is done in plain steps.

A tile multiplies some rows of activations with a panel of LANES * `vectors` columns of a packed matrix, and
adds to the sums of those rows. Activations and weights are read in words of 32 bits; a word holds as many
elements of a column, one below the other, as one instruction multiplies in a lane.
"""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "nsz"},  # products and sums may be fused; their order is never changed
    "error_model": "numpy",  # division by zero is no exception: loops with exceptions are not vectorized
}

part = njit(**_OPTIONS)


def compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Compile a function now, or take its code from the disk."""

    def compile_(function: Any) -> Any:
        # A folder that cannot be written, or a file that somebody broke, must not keep us from working.
        with contextlib.suppress(Exception):
            return njit(list(signatures), cache=True, **_OPTIONS)(function)
        return njit(list(signatures), **_OPTIONS)(function)

    return compile_


@part
def exp(x):  # type: ignore[no-untyped-def]
    """e**x to a few units of the last place, for x of float32; written out so that loops of it vectorize.

    2**n times a polynomial in what is left, |r| <= ln 2 / 2 (Cephes' coefficients, Moshier 1989). Adding
    1.5 * 2**23 rounds to a whole number, which then is in the lowest bits.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    shifted = x * np.float32(1.44269504) + np.float32(12582912)
    n = shifted - np.float32(12582912)
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


@part
def exp2(x):  # type: ignore[no-untyped-def]
    """2**x to some 2e-7 of it, for x of float32, which is taken as if from -40 to 40.

    As `exp`, with the first seven terms of the series. The bounds leave room for products of three.
    """
    x = min(max(x, np.float32(-40)), np.float32(40))
    shifted = x + np.float32(12582912)
    r = x - (shifted - np.float32(12582912))
    p = np.float32(1.5403530e-4)
    p = p * r + np.float32(1.3333558e-3)
    p = p * r + np.float32(9.6181291e-3)
    p = p * r + np.float32(5.5504109e-2)
    p = p * r + np.float32(2.4022651e-1)
    p = p * r + np.float32(6.9314718e-1)
    p = np.float32(p * r + np.float32(1))
    power = np.float32(shifted).view(np.int32) << np.int32(23)
    return np.int32(p.view(np.int32) + power).view(np.float32)


@part
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e**-x)."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@part
def tanh(x):  # type: ignore[no-untyped-def]
    """The hyperbolic tangent, to about 1e-7."""
    return np.float32(2) / (np.float32(1) + exp(np.float32(-2) * x)) - np.float32(1)


LANES = 16
"""Sums side by side in one register, of 32 bits each."""

INTEGERS = ir.VectorType(ir.IntType(32), LANES)
FLOATS = ir.VectorType(ir.FloatType(), LANES)

MultiplyAdd = Callable[[Any, Any, Any], Any]
"""Sums, activations and weights (words, LANES of each) -> sums."""


class Kind(NamedTuple):
    """What is multiplied: elements of a word in the arrays of activations and weights, and what sums are."""

    activations: int
    weights: int
    sums: Any
    multiply_add: Callable[[Any, Any], MultiplyAdd]
    """For a compiler context and a builder."""


def tile(rows: int, vectors: int, kind_of: Callable[[Any], Kind]) -> Any:
    """Return the typing function of an intrinsic, a loop over words, with rows * vectors registers of sums.

    Args:
        rows: of activations.
        vectors: of LANES columns each.
        kind_of: says of the type of the array of weights what is multiplied.
    """

    def typed(_: Any, weights: Any, at: Any, x: Any, row: Any, words: Any, sums: Any, column: Any) -> Any:
        """Add x[row:row + rows] times the panel at weights[at] to sums[row:row + rows, column:]."""
        del at, row, words, column
        signature = types.void(weights, types.intp, x, types.intp, types.intp, sums, types.intp)
        return signature, partial(_code, rows, vectors, kind_of(weights))

    return typed


def has(context: Any, feature: str) -> bool:
    """Return whether the processor that is compiled for has a feature, by LLVM's name."""
    _, _, features = context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


def function(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return the compiler's function of this name and type, such as an instruction of a processor."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _code(
    rows: int, vectors: int, kind: Kind, context: Any, builder: Any, signature: Any, arguments: Any
) -> Any:
    _, at, _, row, words, _, column = arguments
    weights, x, sums = (
        context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)
    )
    places = [
        [
            _address(builder, sums, row, r, builder.add(column, _INTEGER(v * LANES)), kind.sums)
            for v in range(vectors)
        ]
        for r in range(rows)
    ]
    totals = [[_load(builder, place, 4) for place in of_row] for of_row in places]
    entry = builder.block
    loop, end = builder.append_basic_block("words"), builder.append_basic_block("end")
    builder.branch(loop)

    builder.position_at_end(loop)
    word = builder.phi(_INTEGER)
    word.add_incoming(_INTEGER(0), entry)
    running = [[builder.phi(kind.sums) for _ in range(vectors)] for _ in range(rows)]
    activations = []
    for r in range(rows):
        place = _address(builder, x, row, r, builder.mul(word, _INTEGER(kind.activations)), ir.IntType(32))
        activations.append(_everywhere(builder, _load(builder, place)))
    multiply_add = kind.multiply_add(context, builder)
    panel = builder.add(at, builder.mul(word, _INTEGER(vectors * LANES * kind.weights)))
    for v in range(vectors):
        place = builder.gep(weights.data, [builder.add(panel, _INTEGER(v * LANES * kind.weights))])
        some = _load(builder, builder.bitcast(place, INTEGERS.as_pointer()))
        for r in range(rows):
            running[r][v].add_incoming(totals[r][v], entry)
            totals[r][v] = multiply_add(running[r][v], activations[r], some)
            running[r][v].add_incoming(totals[r][v], loop)
    following = builder.add(word, _INTEGER(1))
    word.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, words), loop, end)

    builder.position_at_end(end)
    for of_row, values in zip(places, totals, strict=True):
        for place, value in zip(of_row, values, strict=True):
            builder.store(value, place).align = 4
    return context.get_dummy_value()


_INTEGER = ir.IntType(64)


# ---- one thread after another


def _seen(_: Any, array: Any, index: Any) -> Any:
    """Return array[index] of int64 as it is now, and with it all that was written before it was `told`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(array, index), code


def _told(_: Any, array: Any, index: Any, value: Any) -> Any:
    """Write array[index] of int64, for another thread that looks at it by `seen`."""
    del value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[2], builder.gep(data, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, index, types.int64), code


def _pause(_: Any) -> Any:
    """Let some tens of cycles go by, where the processor has an instruction for that."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        if has(context, "sse2"):
            builder.call(function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        return context.get_dummy_value()

    return types.void(), code


def _give_way(_: Any) -> Any:
    """Let another thread run on this core, if one is waiting for that and the system knows how."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        if os.name == "posix":
            builder.call(function(builder, "sched_yield", ir.IntType(32), []), [])
        return context.get_dummy_value()

    return types.void(), code


seen: Any
told: Any
pause: Any
give_way: Any
seen, told, pause, give_way = (intrinsic(make) for make in (_seen, _told, _pause, _give_way))


# ---- the tile's code


def _address(builder: Any, array: Any, row: Any, offset: int, column: Any, kind: Any) -> Any:
    """Return where [row + offset, column] of an array (B, N) is, to be read as a `kind`."""
    width = builder.extract_value(array.shape, 1)
    start = builder.mul(builder.add(row, _INTEGER(offset)), width)
    return builder.bitcast(builder.gep(array.data, [builder.add(start, column)]), kind.as_pointer())


def _load(builder: Any, place: Any, align: int = 1) -> Any:
    value = builder.load(place)
    value.align = align
    return value


def _everywhere(builder: Any, value: Any) -> Any:
    """Return a vector with `value` in every lane."""
    undefined = ir.Constant(INTEGERS, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(INTEGERS, [0] * LANES))
