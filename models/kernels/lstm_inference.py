"""Inference of int8 LSTM networks, compiled to machine code when first imported.

    run        ids, state -> logits, state; or alternate steps and sampling without returning to Python
    read_tree  texts with common beginnings, state -> logits
    choose     logits -> the next id of every row

Weights are int8 with one float32 scale per column. Hidden states, their factors, lie in (-1, 1) and are
rounded to multiples of 1/127, independent of other values. Integer products are exact and everything else is
computed row by row, so a row's result is bit-identical in any batch.
"""

import gc

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.activations import exp, exp2
from nextchar.models.kernels.intrinsics import load_acquire, sched_yield, spin_pause, store_release
from nextchar.models.kernels.jit import compiled, inline_jit
from nextchar.models.kernels.lstm_arguments import (
    BASE,
    COLUMNS,
    CORRECTIONS,
    GROUP,
    INPUT_WEIGHTS,
    LOWER,
    NO_PIPELINE,
    NO_SAMPLING,
    QUANTIZED_ONE,
    RECURRENT_WEIGHTS,
    SCALES,
    TANH_EXPONENT,
    UNITS,
    UPPER,
    WHOLE,
    ZERO_POINT,
    PackedNetwork,
    Pipeline,
    Sampling,
)
from nextchar.models.kernels.product_kernels import compiled_product
from nextchar.models.kernels.selection import INT8_KERNEL

_MAX_SPINS = 1 << 12  # about 0.1 ms; a thread that waits longer yields its core at every check

_add_product = compiled_product("int8", INT8_KERNEL)


# ---- a step


@inline_jit
def _dequantize(z, bias, scale, sums):  # type: ignore[no-untyped-def]
    for j in range(len(z)):
        z[j] = bias[j] + scale[j] * np.float32(sums[j])


@inline_jit
def _quantize(h, zero_point):  # type: ignore[no-untyped-def]
    """Return h, within [-1, 1], as a byte: rounded to 1/127, plus the zero point."""
    return np.uint8(np.int32(h * np.float32(QUANTIZED_ONE) + np.float32(128.5)) - np.int32(128) + zero_point)


@inline_jit
def _start_sums(sums, corrections, layer):  # type: ignore[no-untyped-def]
    """Set every row of sums (., COLUMNS of the layer) to what they start from."""
    first = layer[CORRECTIONS]
    start = corrections[first : first + sums.shape[1]]
    for i in range(len(sums)):
        row = sums[i]  # else the loop is not vectorized
        for j in range(len(start)):
            row[j] = start[j]


@compiled(
    "void(float32[::1], int64[::1], boolean, int32[:,::1], int64, float32[:,::1], int64,"
    "int32[:,::1], uint8[:,::1])",
    is_internal=True,
)
def _gates(numbers, layer, is_first, ids, t, state, at, sums, x):  # type: ignore[no-untyped-def]
    """Step t: from sums (B, >= 4H) compute h and c, state[:, at : at + 2H], and quantized h as x (B, >= H).

    Gates are negative exponents of two, see EXPONENTS: sigmoid(z) = 1 / (1 + 2**gate) and
    tanh(z) = (1 - 2**gate) / (1 + 2**gate). Fractions that are added or multiplied share one division.
    """
    units, zero_point, scales = layer[UNITS], np.int32(layer[ZERO_POINT]), layer[SCALES]
    scale = numbers[scales : scales + 4 * units]
    one = np.float32(1)
    for b in range(len(x)):
        first = layer[BASE]
        if is_first:
            first += ids[t, b] * 4 * units  # the id's row of the table
        base = numbers[first : first + 4 * units]
        h, c, row = state[b, at : at + units], state[b, at + units : at + 2 * units], sums[b]
        for j in range(units):
            f, g = units + j, 2 * units + j
            into = one + exp2(base[j] + scale[j] * np.float32(row[j]))
            forget = one + exp2(base[f] + scale[f] * np.float32(row[f]))
            cell = exp2(base[g] + scale[g] * np.float32(row[g]))
            other = into * (one + cell)
            c[j] = np.float32(c[j] * other + (one - cell) * forget) / np.float32(other * forget)
        for j in range(units):
            o = 3 * units + j
            out = one + exp2(base[o] + scale[o] * np.float32(row[o]))
            cell = exp2(np.float32(TANH_EXPONENT) * c[j])
            h[j] = np.float32(one - cell) / np.float32(out * (one + cell))
            x[b, j] = _quantize(h[j], zero_point)


@compiled(
    "uint8[:,::1](int8[::1], float32[::1], int32[::1], int64[::1], boolean,"
    "int32[:,::1], float32[:,::1], int64, int32[:,::1])",
    is_internal=True,
)
def _layer(  # type: ignore[no-untyped-def]
    weights, numbers, corrections, layer, is_first, ids, state, at, sums
):
    """Run the T steps of a layer, changing state[:, at : at + 2H]; return its outputs.

    `sums` (T * B, >= 4H) holds the input products; for the first layer, which has none, it is workspace
    (B, >= 4H).
    The result is (T * B + B, H rounded up to GROUP) uint8; its last B rows are the outputs before the first
    step.
    """
    steps, rows = ids.shape
    units, zero_point = layer[UNITS], np.int32(layer[ZERO_POINT])
    x = np.zeros((steps * rows + rows, -(-units // GROUP) * GROUP), np.uint8)
    before = x[steps * rows :]
    for b in range(rows):
        h, row = state[b, at : at + units], before[b]
        for j in range(units):
            row[j] = _quantize(h[j], zero_point)
    now = sums[:rows]
    for t in range(steps):
        if is_first:
            _start_sums(now, corrections, layer)
        else:
            now = sums[t * rows : (t + 1) * rows]
        _add_product(weights, layer[RECURRENT_WEIGHTS], before, now, 0, rows)
        before = x[t * rows : (t + 1) * rows]
        _gates(numbers, layer, is_first, ids, t, state, at, now, before)
    return x


@compiled(
    "void(int8[::1], float32[::1], int32[::1], int64[:,::1], int32[:,::1], float32[:,::1], int64,"
    "float32[:,:,::1], int64, uint8[:,::1], int32[:,::1])",
    is_internal=True,
)
def read_steps(  # type: ignore[no-untyped-def]
    weights, numbers, corrections, layout, ids, state, first, logits, part, boundary_x, boundary_sums
):
    """Read ids (T, B), changing state (B, S); write logits (T - first, B, V). Allocates for T * B rows.

    Layer by layer: the input products of all steps at once, then the recurrent steps one by one.
    LOWER writes `boundary_x` and `boundary_sums`, UPPER reads them.
    """
    steps, rows = ids.shape
    count, half = steps * rows, steps * rows // 2
    x = boundary_x  # outputs of the layer below, (T * B, its units)
    at = 0
    for n in range(len(layout) - 1):
        layer = layout[n]
        is_first = n == 0 and part != UPPER
        if n == 0 and part == UPPER:
            sums, start = boundary_sums, half
        else:
            sums, start = np.empty((rows if is_first else count, layer[COLUMNS]), np.int32), 0
            if not is_first:
                _start_sums(sums, corrections, layer)
        if not is_first:
            _add_product(weights, layer[INPUT_WEIGHTS], x, sums, start, count - start)
        x = _layer(weights, numbers, corrections, layer, is_first, ids, state, at, sums)
        at += 2 * layer[UNITS]
    after = layout[len(layout) - 1]
    if part == LOWER:
        _start_sums(boundary_sums, corrections, after)
        _add_product(weights, after[INPUT_WEIGHTS], x, boundary_sums, 0, half)
        for i in range(count):  # slice assignment would compile slowly
            for j in range(x.shape[1]):
                boundary_x[i, j] = x[i, j]
    elif steps > first:
        wanted = count - first * rows
        sums = np.empty((wanted, after[COLUMNS]), np.int32)
        _start_sums(sums, corrections, after)
        _add_product(weights, after[INPUT_WEIGHTS], x[count - wanted : count], sums, 0, wanted)
        units, scales, biases = after[UNITS], after[SCALES], after[BASE]
        scale, bias = numbers[scales : scales + units], numbers[biases : biases + units]
        for i in range(wanted):
            _dequantize(logits[i // rows, i % rows], bias, scale, sums[i])


@inline_jit
def any_out_of_range(ids, vocabulary_size):  # type: ignore[no-untyped-def]
    """Return whether one of ids (T, B) is below 0 or not below V."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            if ids[t, b] < 0 or ids[t, b] >= vocabulary_size:
                return True
    return False


@inline_jit
def _wait_for_slice(  # type: ignore[no-untyped-def]
    part, n, slices_ahead, slices_done, has_ended, upper_started, stop
):
    """Wait until this part can read slice n; return False if it never can, or UPPER has not started."""
    spins = 0
    while True:
        if part == LOWER:
            if load_acquire(stop, 0) != 0 or load_acquire(has_ended, 0) != 0:
                return False
            if n - load_acquire(slices_done, UPPER) < slices_ahead:
                return True
            if spins >= _MAX_SPINS and load_acquire(upper_started, 0) == 0:
                return False  # the other thread is busy with something else
        else:
            is_last = load_acquire(has_ended, 0) != 0  # must be loaded before slices_done
            if n < load_acquire(slices_done, LOWER):
                return True
            if is_last:
                return False
        spins += 1
        if spins < _MAX_SPINS:
            spin_pause()
        else:
            sched_yield()


# ---- entry points


@compiled("void(float32[:,::1], float32[::1], float64[::1], int32[::1])")
def choose(logits, inverse_temperature, uniforms, chosen):  # type: ignore[no-untyped-def]
    """Choose an id, at least 1, for each row.

    Args:
        logits: (B, V) float32.
        inverse_temperature: (B,) float32; 0 takes the most likely id.
        uniforms: (B,) float64 in [0, 1).
        chosen: (B,) int32, filled.
    """
    weights = np.empty(logits.shape[1], np.float32)
    for b in range(len(chosen)):
        z = logits[b]
        best = 1
        for i in range(2, len(z)):
            if z[i] > z[best]:
                best = i
        chosen[b] = best
        if inverse_temperature[b] > 0:
            for i in range(1, len(z)):
                weights[i] = exp((z[i] - z[best]) * inverse_temperature[b])
            total = 0.0
            for i in range(1, len(z)):
                total += weights[i]
            target, cumulative = uniforms[b] * total, 0.0
            for i in range(1, len(z)):
                cumulative += weights[i]
                if cumulative > target:
                    chosen[b] = i
                    break


def run(
    network: PackedNetwork,
    ids: NDArray[np.int32],
    state: NDArray[np.float32],
    first: int,
    logits: NDArray[np.float32],
    sampling: Sampling = NO_SAMPLING,
    pipeline: Pipeline = NO_PIPELINE,
) -> bool:
    """Read ids, then choose and read N more times.

    Args:
        network: the weights.
        ids: (T, B).
        state: (B, S), changed in place.
        first: the first step with logits.
        logits: (T - first, B, V), filled. With sampling T is 1 and they are (1 + N, B, V).
        sampling: the N choices, made as `choose` does.
        pipeline: for one of two threads that read one text: B is 1, no sampling; logits (T, 1, V) are filled
            by UPPER, unless there are none.

    Returns:
        False, with nothing done, if an id is not below V.
    """
    return bool(_run_flat(*network, ids, state, first, logits, *sampling, *pipeline))


# Numba takes 4 us longer to accept the three tuples than their elements.
@compiled(
    "boolean(int8[::1], float32[::1], int32[::1], int64[:,::1],"
    "int32[:,::1], float32[:,::1], int64, float32[:,:,::1],"
    "float32[::1], float64[:,::1], int32[:,::1],"
    "int64, int64[::1], uint8[:,:,::1], int32[:,:,::1], float32[:,::1],"
    "int64[::1], int64[::1], int64[::1], int64[::1])"
)
def _run_flat(  # type: ignore[no-untyped-def]
    weights,
    numbers,
    corrections,
    layout,
    ids,
    state,
    first,
    logits,
    inverse_temperature,
    uniforms,
    chosen,
    part,
    ends,
    boundary_x,
    boundary_sums,
    states,
    slices_done,
    has_ended,
    upper_started,
    stop,
):
    if any_out_of_range(ids, logits.shape[2]):
        return False
    if part == UPPER:
        store_release(upper_started, 0, 1)
    rounds = len(uniforms) + 1 if part == WHOLE else len(ends)
    logits_per_round = len(logits) // rounds if part == WHOLE else 0
    has_logits = part == UPPER and len(logits) > 0
    now = ids
    done = 0 if part == WHOLE else slices_done[part]
    start = 0 if done == 0 else ends[done - 1]
    end = len(ids)
    for n in range(done, rounds):
        if part != WHOLE:
            if not _wait_for_slice(part, n, len(boundary_x), slices_done, has_ended, upper_started, stop):
                break
            end = ends[n]
        elif n > 0:
            choose(logits[n - 1], inverse_temperature, uniforms[n - 1], chosen[n - 1])
            now = chosen[n - 1 : n]
        slot = n % len(boundary_x)
        round_logits = logits[n * logits_per_round : (n + 1) * logits_per_round]
        if has_logits:
            round_logits = logits[start:end]
        read_steps(
            weights,
            numbers,
            corrections,
            layout,
            now[start:end],
            state,
            first,
            round_logits,
            part,
            boundary_x[slot],
            boundary_sums[slot],
        )
        if part != WHOLE:
            for j in range(state.shape[1]):
                states[n, j] = state[0, j]
            store_release(slices_done, part, n + 1)
            start = end
    return True


@compiled(
    "boolean(int8[::1], float32[::1], int32[::1], int64[:,::1],"
    "int32[::1], int64[::1], int64[::1], float32[:,::1], float32[:,::1])"
)
def read_tree(  # type: ignore[no-untyped-def]
    weights, numbers, corrections, layout, ids, parents, ends, state, logits
):
    """Read a tree of N ids after state (1, S), level by level, and fill logits (N, V) after each.

    `ids` (N,) are sorted by level, whose ends are `ends`; `parents` (N,) are places in the level above.
    Returns False, with nothing done, if an id is not below V.
    """
    if any_out_of_range(ids.reshape(1, len(ids)), logits.shape[1]):
        return False
    no_x, no_sums = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int32)
    above, start = state, 0
    for end in ends:
        rows = end - start
        level = np.empty((rows, state.shape[1]), np.float32)
        for i in range(rows):
            for j in range(level.shape[1]):
                level[i, j] = above[parents[start + i], j]
        read_steps(
            weights,
            numbers,
            corrections,
            layout,
            ids[start:end].reshape(1, rows),
            level,
            0,
            logits[start:end].reshape(1, rows, logits.shape[1]),
            WHOLE,
            no_x,
            no_sums,
        )
        above, start = level, end
    return True


# The compiler leaves some hundred thousand live objects. Scanning them in a garbage collection would stop the
# process for a tenth of a second, so they are excluded from it.
gc.freeze()
