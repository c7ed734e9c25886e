"""The loops of LSTM layers in training, compiled to machine code when first imported.

    forward     inputs, weights, state -> gates, cells, outputs
    backward    those and the gradients of the outputs -> the gradients of inputs and biases

Faster than general libraries at these sizes: weights are packed once for all steps of a window, gates are
computed while their sums are in the cache, and every array is written in the number format and the order in
which the next product reads it (`packed_arrays`). All else is float32. A call runs in the calling thread and
releases the GIL. Results are bit-identical from run to run.
"""

import numpy as np

from nextchar.models.kernels.activations import sigmoid, tanh
from nextchar.models.kernels.jit import compiled, inline_jit
from nextchar.models.kernels.packed_arrays import F2, F3, IDS, multiply_add, pack_rows_from, signatures, store


@inline_jit
def _split_gates(row, units):  # type: ignore[no-untyped-def]
    """Return the parts i, f, g, o of (4H,), or f, f, g, o of (3H,): coupled gates have no i of their own."""
    first = len(row) - 3 * units
    return (
        row[:units],
        row[first : first + units],
        row[first + units : first + 2 * units],
        row[first + 2 * units :],
    )


@compiled(f"void({F2}, {F2}, {F2}, {F2}, {F2})", is_internal=True)
def _gates(zs, gates, before, cs, hs):  # type: ignore[no-untyped-def]
    """One step: from zs (B, G or more) compute gates (B, G), the next cells cs and outputs hs (B, H).

    `before` are the cells before. G is 4H, or 3H for coupled gates, where i = 1 - f.
    """
    units, width = hs.shape[1], gates.shape[1]
    one = np.float32(1)
    for b in range(len(hs)):
        into, forget, cell, out = _split_gates(gates[b], units)
        z_into, z_forget, z_cell, z_out = _split_gates(zs[b, :width], units)
        c, c_before, h = cs[b], before[b], hs[b]
        if width == 3 * units:
            for j in range(units):
                forget[j] = sigmoid(z_forget[j])
                cell[j] = tanh(z_cell[j])
                out[j] = sigmoid(z_out[j])
                c[j] = forget[j] * c_before[j] + (one - forget[j]) * cell[j]
        else:
            for j in range(units):
                into[j] = sigmoid(z_into[j])
                forget[j] = sigmoid(z_forget[j])
                cell[j] = tanh(z_cell[j])
                out[j] = sigmoid(z_out[j])
                c[j] = forget[j] * c_before[j] + into[j] * cell[j]
        for j in range(units):
            h[j] = out[j] * tanh(c[j])


@compiled(f"void({F2}, {F2}, {F2}, {F2}, {F2}, {F2}, {F2}, {F2}, int32[::1], {F2})", is_internal=True)
def _gradients(gates, before, cs, d_hs, masks, dhs, dcs, dzs, ids, d_start):  # type: ignore[no-untyped-def]
    """One backward step: from the gradients of h and c compute those of the gate inputs dzs (B, G).

    dhs (B, H) are passed back by the next step, d_hs (B, H or more) come from this step's outputs; dcs
    become those of the cells before. Each row of dzs is added to the row of d_start that its id names.
    """
    units = dhs.shape[1]
    one = np.float32(1)
    for b in range(len(dhs)):
        into, forget, cell, out = _split_gates(gates[b], units)
        d_into, d_forget, d_cell, d_out = _split_gates(dzs[b], units)
        c_before, c, d_h, mask, dh, dc = before[b], cs[b], d_hs[b], masks[b], dhs[b], dcs[b]
        if dzs.shape[1] == 3 * units:
            for j in range(units):
                tanh_c = tanh(c[j])
                grad_h = dh[j] + d_h[j] * mask[j]
                f, g, o = forget[j], cell[j], out[j]
                grad_c = dc[j] + grad_h * o * (one - tanh_c * tanh_c)
                d_forget[j] = grad_c * (c_before[j] - g) * f * (one - f)
                d_cell[j] = grad_c * (one - f) * (one - g * g)
                d_out[j] = grad_h * tanh_c * o * (one - o)
                dc[j] = grad_c * f
        else:
            for j in range(units):
                tanh_c = tanh(c[j])
                grad_h = dh[j] + d_h[j] * mask[j]
                i, f, g, o = into[j], forget[j], cell[j], out[j]
                grad_c = dc[j] + grad_h * o * (one - tanh_c * tanh_c)
                d_into[j] = grad_c * g * i * (one - i)
                d_forget[j] = grad_c * c_before[j] * f * (one - f)
                d_cell[j] = grad_c * i * (one - g * g)
                d_out[j] = grad_h * tanh_c * o * (one - o)
                dc[j] = grad_c * f
        row, total = dzs[b], d_start[ids[b]]
        for j in range(len(row)):
            total[j] += row[j]


@compiled(*signatures(f"void({F2}, {IDS}, P, X3, int64, X3, {F2}, {F2}, {F2}, {F2}, {F3}, {F3})"))
def forward(start, ids, packed, xs, inputs, above, mask, h, c0, sums, gates, cs):  # type: ignore[no-untyped-def]
    """Run T steps of a layer.

    Args:
        start: (N, G) what the sums of the gates start from: projected characters, or only the biases.
            G is 4H, in Keras's order i, f, g, o, or 3H for coupled gates f, g, o, where i = 1 - f.
        ids: (T, B) int32 rows of `start`.
        packed: the weights (I + H, G) of the inputs and of the outputs before.
        xs: (T, B, I + H or more) activations: the inputs; the outputs before are filled in.
        inputs: I, 0 for a layer whose inputs are all in `start`.
        above: (T, B, H or more) activations, filled with the outputs times `mask`.
        mask: (B, H).
        h: (B, H) the output before the first step; replaced by that of the last one.
        c0: (B, H) the cell before the first step.
        sums: (B, G or more) workspace.
        gates: (T, B, G), filled with the gates after their nonlinearities.
        cs: (T, B, H), filled with the cells.
    """
    units = h.shape[1]
    for t in range(len(ids)):
        c_before = cs[t - 1] if t else c0
        for b in range(len(h)):
            z, first, output, x = sums[b], start[ids[t, b]], h[b], xs[t, b, inputs : inputs + units]
            for j in range(len(first)):
                z[j] = first[j]
            for j in range(len(output)):
                store(x, j, output[j])
        multiply_add(packed, xs[t], sums)
        _gates(sums, gates[t], c_before, cs[t], h)
        for b in range(len(h)):
            output, dropped, factor = h[b], above[t, b], mask[b]
            for j in range(len(output)):
                store(dropped, j, output[j] * factor[j])


@compiled(
    *signatures(f"void({F3}, {F3}, {F2}, {F3}, {F2}, P, int64, X, {F2}, {F3}, {F2}, {F2}, {IDS}, {F2}, P)")
)
def backward(  # type: ignore[no-untyped-def]
    gates, cs, c0, d_above, mask, packed, inputs, x, dz, d_xs, dh, dc, ids, d_start, packed_dz
):
    """Back-propagate through the T steps of `forward`.

    Args:
        gates: (T, B, G) from `forward`.
        cs: (T, B, H) from `forward`.
        c0: (B, H) the cell before the first step.
        d_above: (T, B, H or more) the gradient of the outputs times `mask`.
        mask: (B, H).
        packed: the transposed weights (G, I + H).
        inputs: I.
        x: (B, G or more) activations, zeros; workspace.
        dz: (B, G) workspace.
        d_xs: (T, B, I + H or more), filled with the gradient of inputs and of outputs before; (1, B, ...) if
            it is not wanted.
        dh: (B, H) the gradient of the final output as a state; replaced by that of the first.
        dc: (B, H) the gradient of the final cell; replaced by that of c0.
        ids: (T, B) int32 rows of `d_start`.
        d_start: (N, G), to which the gradient of `start` is added.
        packed_dz: the gradients of the gates (T * B, G), with whole words for every step; filled.
    """
    words = packed_dz.shape[1] // len(cs)
    for steps_back in range(1, len(cs) + 1):
        t = len(cs) - steps_back
        c_before = cs[t - 1] if t else c0
        _gradients(gates[t], c_before, cs[t], d_above[t], mask, dh, dc, dz, ids[t], d_start)
        for b in range(len(dh)):
            d, row = dz[b], x[b]
            for j in range(len(d)):
                store(row, j, d[j])
        pack_rows_from(x, packed_dz, t * words)
        d_x = d_xs[t % len(d_xs)]
        d_x[:] = 0
        multiply_add(packed, x, d_x)
        for b in range(len(dh)):
            d, passed = dh[b], d_x[b, inputs:]
            for j in range(len(d)):
                d[j] = passed[j]
