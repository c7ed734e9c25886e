"""The inner loops of an int8 LSTM network, compiled to machine code when first imported.

    choose   logits -> the next character of every row
    run      ids, state -> logits, state; and steps and choices in turn, without Python between them

Weights are int8 with one float32 scale a column; what they are multiplied with, the hidden states, lies in
(-1, 1) and is rounded to 1/127 without looking at anything else. The products are sums of integers, so they
are exact: in whatever order, tile or company a row is computed, it comes out the same to the bit. All that
is not a product is done a row at a time.

Only `models.runtime.lstm_network` imports this module. It knows arrays, and no text, files or requests.
"""

import gc
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from models.kernels.jit import (
    INTEGERS,
    LANES,
    Kind,
    MultiplyAdd,
    compiled,
    exp,
    exp2,
    function,
    give_way,
    has,
    part,
    pause,
    seen,
    tile,
    told,
)

VECTORS = 8
PANEL = LANES * VECTORS
"""Columns of a weight matrix that are computed together. A matrix has a multiple of it."""

GROUP = 4
"""Elements of a column that are multiplied by one instruction. A matrix has a multiple of it as rows."""

ONE = 127
"""What stands for 1.0 among activations; they are kept as unsigned bytes with 128 for 0.0."""

UNITS, INPUT_WEIGHTS, RECURRENT_WEIGHTS, SCALES, BASE, COLUMNS = range(6)
"""What `layout` (L + 1, 6) int64 holds of a layer: H, where its numbers begin, the columns of its matrices.

The last is the dense layer, whose units are V and which has no recurrent weights.
"""

_OF_SIGMOID, _OF_TANH = -1 / math.log(2), -2 / math.log(2)

EXPONENTS = (_OF_SIGMOID, _OF_SIGMOID, _OF_TANH, _OF_SIGMOID)
"""What the scales and numbers of the gates i, f, g, o are multiplied with: sums become exponents of two."""

WHOLE, LOWER, UPPER = range(3)
"""Which part of a network `run` runs."""

ENDED, STARTED = 0, 3
"""Where `progress` (4,) tells that a part has ended, and that UPPER has begun; at LOWER and UPPER it has
the slices that each has read."""

SPINS = 1 << 12
"""One part waits so many turns for the other before it lets whoever waits have its core: some 0.1 ms."""


def pack(weights: np.ndarray[Any, np.dtype[np.int8]]) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return (K, N) int8 as panels (N / PANEL, K / GROUP, VECTORS, LANES, GROUP), flat, padded with zeros."""
    k, n = weights.shape
    padded = np.zeros((_up(k, GROUP), _up(n, PANEL)), np.int8)
    padded[:k, :n] = weights
    groups = padded.reshape(padded.shape[0] // GROUP, GROUP, padded.shape[1] // PANEL, VECTORS, LANES)
    return np.ascontiguousarray(groups.transpose(2, 0, 3, 4, 1)).ravel()


def padded_columns(columns: int) -> int:
    """Return how many columns a packed matrix has."""
    return _up(columns, PANEL)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


# ---- products


def _multiply_add(context: Any, builder: Any) -> MultiplyAdd:
    """Return how to add, in every lane, the products of four unsigned and four signed bytes to a sum."""
    if has(context, "avx512vnni"):
        dot = function(builder, "llvm.x86.avx512.vpdpbusd.512", INTEGERS, [INTEGERS] * 3)
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


_KIND = Kind(activations=GROUP, weights=GROUP, sums=INTEGERS, multiply_add=_multiply_add)

_tile_1: Any
_tile_2: Any
_tile_3: Any
_tile_1, _tile_2, _tile_3 = (intrinsic(tile(rows, VECTORS, lambda _: _KIND)) for rows in (1, 2, 3))


@part
def _add_product(weights, first_panel, x, sums, start, rows):  # type: ignore[no-untyped-def]
    """Add x[start:start + rows] (., K) uint8 times a packed matrix to the same rows of sums (., N) int32."""
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


# ---- a step


@part
def _scaled(z, base, scale, sums):  # type: ignore[no-untyped-def]
    for j in range(len(z)):
        z[j] = base[j] + scale[j] * np.float32(sums[j])


@part
def _gates(base, scale, sums, h, c, x):  # type: ignore[no-untyped-def]
    """One step of one row: from sums (4H,) the next h (H,) and c (H,), in place, and x (H,) to multiply with.

    Gates are exponents of two, negative, see EXPONENTS: sigmoid(z) = 1 / (1 + 2**gate), and tanh(z) =
    (1 - 2**gate) / (1 + 2**gate). Fractions that are added or multiplied have one division.
    """
    units = len(h)
    one = np.float32(1)
    for j in range(units):
        f, g = units + j, 2 * units + j
        into = one + exp2(base[j] + scale[j] * np.float32(sums[j]))
        forget = one + exp2(base[f] + scale[f] * np.float32(sums[f]))
        cell = exp2(base[g] + scale[g] * np.float32(sums[g]))
        other = into * (one + cell)
        c[j] = np.float32(c[j] * other + (one - cell) * forget) / np.float32(other * forget)
    for j in range(units):
        o = 3 * units + j
        out = one + exp2(base[o] + scale[o] * np.float32(sums[o]))
        cell = exp2(np.float32(_OF_TANH) * c[j])
        h[j] = np.float32(one - cell) / np.float32(out * (one + cell))
        x[j] = _byte(h[j])


@part
def _byte(h):  # type: ignore[no-untyped-def]
    return np.uint8(np.int32(h * np.float32(ONE) + np.float32(128.5)))


@part
def _run(weights, floats, layout, ids, state, first, logits, part, between, begun):  # type: ignore[no-untyped-def]
    """Read ids (T, B), changing state (B, S); write logits (T - first, B, V). Memory is for T * B rows.

    Layer by layer: the products with a layer's inputs for all steps at once, then its own steps one by one.
    Of `part`, LOWER writes to `between` and `begun` what UPPER goes on from.
    """
    steps, rows = ids.shape
    count, half = steps * rows, steps * rows // 2
    x = between  # what the layer before has given, (T * B, its units)
    zero = np.int64(0)  # for a plain 0 the compiler would write everything once more
    at = zero
    for n in range(len(layout) - 1):
        layer = layout[n]
        is_first = n == 0 and part != UPPER
        if n == 0 and part == UPPER:
            sums, start = begun, half
        else:
            sums, start = np.zeros((rows if is_first else count, layer[COLUMNS]), np.int32), zero
        if not is_first:
            _add_product(weights, layer[INPUT_WEIGHTS], x, sums, start, count - start)
        x = _layer(weights, floats, layer, is_first, ids, state, at, sums)
        at += 2 * layer[UNITS]
    after = layout[len(layout) - 1]
    if part == LOWER:
        begun[:] = 0
        _add_product(weights, after[INPUT_WEIGHTS], x, begun, zero, half)
        between[:] = x[:count]
    elif steps > first:
        asked = count - first * rows
        sums = np.zeros((asked, after[COLUMNS]), np.int32)
        _add_product(weights, after[INPUT_WEIGHTS], x[count - asked : count], sums, zero, asked)
        scale = floats[after[SCALES] : after[SCALES] + after[UNITS]]
        bias = floats[after[BASE] : after[BASE] + after[UNITS]]
        for i in range(asked):
            _scaled(logits[i // rows, i % rows], bias, scale, sums[i])


@part
def _layer(weights, floats, layer, is_first, ids, state, at, sums):  # type: ignore[no-untyped-def]
    """Do a layer's steps, changing its part of the state; return x (T * B + B, H) uint8, each step's output.

    That part is state[:, at : at + 2H]. sums (T * B, >= 4H) holds the products with its inputs; for the
    first layer, which has none, it is (B, >= 4H) zeros. The last B rows of x are its output before the
    first step.
    """
    steps, rows = ids.shape
    units = layer[UNITS]
    scale = floats[layer[SCALES] : layer[SCALES] + 4 * units]
    x = np.zeros((steps * rows + rows, -(-units // GROUP) * GROUP), np.uint8)
    for b in range(rows):
        for j in range(units):
            x[steps * rows + b, j] = _byte(state[b, at + j])
    before = x[steps * rows :]
    now = sums[:rows]
    for t in range(steps):
        if not is_first:
            now = sums[t * rows : (t + 1) * rows]
        elif t > 0:
            now[:] = 0
        _add_product(weights, layer[RECURRENT_WEIGHTS], before, now, np.int64(0), rows)
        before = x[t * rows : (t + 1) * rows]
        for b in range(rows):
            base = layer[BASE]
            if is_first:
                base += ids[t, b] * 4 * units  # its row of the table
            h, c = state[b, at : at + units], state[b, at + units : at + 2 * units]
            _gates(floats[base : base + 4 * units], scale, now[b], h, c, before[b])
    return x


@part
def _choose(logits, sharpness, uniform, chosen):  # type: ignore[no-untyped-def]
    """For each row of logits (B, V) write an id to chosen (B,): of the likeliest character, or drawn."""
    weights = np.empty(logits.shape[1], np.float32)
    for b in range(len(chosen)):
        z = logits[b]
        best = 1
        for i in range(2, len(z)):
            if z[i] > z[best]:
                best = i
        chosen[b] = best
        if sharpness[b] > 0:
            for i in range(1, len(z)):
                weights[i] = exp((z[i] - z[best]) * sharpness[b])
            total = 0.0
            for i in range(1, len(z)):
                total += weights[i]
            sought, reached = uniform[b] * total, 0.0
            for i in range(1, len(z)):
                reached += weights[i]
                if reached > sought:
                    chosen[b] = i
                    break


@part
def _strange(ids, size):  # type: ignore[no-untyped-def]
    """Whether an id is not below the vocabulary's size."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            if ids[t, b] < 0 or ids[t, b] >= size:
                return True
    return False


@part
def _has_turn(progress, stop, part, n, ahead):  # type: ignore[no-untyped-def]
    """Wait until a part can read slice n; return False where it never can, or not before the other starts."""
    turn = 0
    while True:
        if part == LOWER:
            if seen(stop, 0) != 0 or seen(progress, ENDED) != 0:
                return False
            if n - seen(progress, UPPER) < ahead:
                return True
            if turn >= SPINS and seen(progress, STARTED) == 0:
                return False  # its thread does something else
        else:
            has_ended = seen(progress, ENDED) != 0  # before looking how far it has come
            if n < seen(progress, LOWER):
                return True
            if has_ended:
                return False
        turn += 1
        if turn < SPINS:
            pause()
        else:
            give_way()


# ---- what is called from outside


_NETWORK = "int8[::1], float32[::1], int64[:,::1]"


@compiled(
    f"boolean({_NETWORK}, int32[:,::1], float32[:,::1], int64, float32[:,:,::1],"
    "float32[::1], float64[:,::1], int32[:,::1],"
    "int64, int64[::1], uint8[:,:,::1], int32[:,:,::1], float32[:,::1], int64[::1], int64[::1])"
)
def run(  # type: ignore[no-untyped-def]
    weights,
    floats,
    layout,
    ids,
    state,
    first,
    logits,
    sharpness,
    uniforms,
    chosen,
    part,
    ends,
    between,
    begun,
    states,
    progress,
    stop,
):
    """Read ids (T, B) int32, changing state (B, S) float32; then choose and read N times more.

    Where N is 0, logits (T - first, B, V) float32 are those after the steps from `first` on. Else T is 1 and
    logits (1 + N, B, V), and chosen (N, B) int32 are chosen as `choose` does by uniforms (N, B). Returns
    False, having done nothing, if an id is not below V. Reading, generating and what follows are one function
    because it takes long to compile.

    Where `part` is not WHOLE, B is 1, there are no logits, and two threads read one text in slices, which
    end at `ends`. One reads with the LOWER layers, where layout has these and the one above them; the other
    with the UPPER ones, where layout begins with that, as soon as the slice below is done. So that both take
    as long, the first also works out half of the products of that layer. What goes from one to the other is
    in the slices' turn in between (A, slice, units of the layer below, rounded up to GROUP) uint8 and begun
    (A, slice, columns of the layer above) int32: LOWER is at most A slices ahead. Each writes to states
    (slices, its S) its state after each slice, and to `progress` how far it is, from where it also begins.
    LOWER stops before a slice where stop (1,) is set. The caller tells when either has ended, however.
    """
    if _strange(ids, logits.shape[2]):
        return False
    if part == UPPER:
        told(progress, STARTED, 1)
    rounds = len(uniforms) + 1 if part == WHOLE else len(ends)
    each = len(logits) // rounds if part == WHOLE else 0
    now = ids.copy()
    done = 0 if part == WHOLE else progress[part]
    start = 0 if done == 0 else ends[done - 1]
    end = len(ids)
    for n in range(done, rounds):
        if part != WHOLE:
            if not _has_turn(progress, stop, part, n, len(between)):
                break
            end = ends[n]
        elif n > 0:
            _choose(logits[n - 1], sharpness, uniforms[n - 1], chosen[n - 1])
            for b in range(len(sharpness)):  # not as a slice: checking shapes would take long to compile
                now[0, b] = chosen[n - 1, b]
        slot = n % len(between)
        _run(
            weights,
            floats,
            layout,
            now[start:end],
            state,
            first,
            logits[n * each : (n + 1) * each],
            part,
            between[slot, : end - start],
            begun[slot, : end - start],
        )
        if part != WHOLE:
            for j in range(state.shape[1]):
                states[n, j] = state[0, j]
            told(progress, part, n + 1)
            start = end
    return True


@compiled("void(float32[:,::1], float32[::1], float64[::1], int32[::1])")
def choose(logits, sharpness, uniforms, chosen):  # type: ignore[no-untyped-def]
    """Choose for each row of logits (B, V) float32 an id, at least 1, into chosen (B,) int32.

    By sharpness (B,) float32, 1 / temperature, and uniforms (B,) in [0, 1); sharpness 0 takes the likeliest.
    """
    _choose(logits, sharpness, uniforms, chosen)


# The compiler leaves some hundred thousand objects that are never garbage. Were they looked through now and
# then, nothing else of the process could go on for a tenth of a second. A module is executed once.
gc.freeze()
