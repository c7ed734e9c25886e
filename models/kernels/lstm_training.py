"""The loops of LSTM training, compiled to machine code when first imported.

    forward                   inputs, weights, state -> gates, cells, outputs
    backward                  those and the gradients of the outputs -> the gradients of inputs and biases
    add_product               the product of activations and a matrix
    add_transposed_product    the gradient of a matrix
    cross_entropy             logits, targets -> loss and gradient

Faster than general libraries at these sizes: weights are packed once for all steps of a window, gates are
computed while their sums are in the cache, and every array is written in the number format and the order in
which the next product reads it. Products are float32, or bfloat16 with float32 sums if HAS_BFLOAT16; all else
is float32. A call runs in the calling thread and releases the GIL. Results are bit-identical from run to run.

Arrays of activations are factors of products: float32, or uint16 for bfloat16. Packed matrices are those of
`models.kernels.product_kernels`: (N / panel, words, panel), float32, or uint32 for pairs of bfloat16 numbers.
Both may be padded with zeros.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from models.kernels.activations import exp, sigmoid, tanh
from models.kernels.compiled_products import compiled_product, compiled_transposed_product
from models.kernels.jit import compiled, inline_jit
from models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL

HAS_BFLOAT16 = BFLOAT16_KERNEL is not None
"""Whether the processor has bfloat16 products."""

_add_float32 = compiled_product("float32", FLOAT32_KERNEL)
_add_bfloat16 = compiled_product("bfloat16", BFLOAT16_KERNEL) if BFLOAT16_KERNEL else _add_float32
_add_transposed_float32 = compiled_transposed_product("float32", FLOAT32_KERNEL)
_add_transposed_bfloat16 = (
    compiled_transposed_product("bfloat16", BFLOAT16_KERNEL) if BFLOAT16_KERNEL else _add_transposed_float32
)


def _add_product(packed: Any, x: Any, sums: Any) -> None:
    """Add x (M, K) times a packed matrix to sums (M, N); K and N are those of the packed matrix."""


@overload(_add_product, inline="always")
def _overload_add_product(packed, x, sums):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def add_float32(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_float32(packed.reshape(packed.size), 0, x, sums, 0, len(x))

    def add_bfloat16(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_bfloat16(packed.reshape(packed.size), 0, x, sums, 0, len(x))

    return add_float32 if packed.dtype == types.float32 else add_bfloat16


def _add_transposed(x: Any, packed: Any, sums: Any) -> None:
    """Add X' W to sums (M, N), where X (K, M) and W (K, N) are packed."""


@overload(_add_transposed, inline="always")
def _overload_add_transposed(x, packed, sums):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def add_float32(x, packed, sums):  # type: ignore[no-untyped-def]
        _add_transposed_float32(x, packed, sums)

    def add_bfloat16(x, packed, sums):  # type: ignore[no-untyped-def]
        _add_transposed_bfloat16(x, packed, sums)

    return add_float32 if packed.dtype == types.float32 else add_bfloat16


# ---- number formats


def _signatures(template: str) -> list[str]:
    """Return a signature per number format; P is a packed matrix, X1, X and X3 are arrays of activations."""
    formats = [("float32", "float32")]
    if HAS_BFLOAT16:
        formats.append(("uint32", "uint16"))
    shapes = {"P": "{0}[:,:,::1]", "X3": "{1}[:,:,::1]", "X1": "{1}[::1]", "X": "{1}[:,::1]"}
    for name, shape in shapes.items():
        template = template.replace(name, shape)
    return [template.format(*one) for one in formats]


_F1, _F2, _F3, _IDS = "float32[::1]", "float32[:,::1]", "float32[:,:,::1]", "int32[:,::1]"


@inline_jit
def _bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the bits of the nearest bfloat16 number, rounding ties to even."""
    bits = np.float32(value).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def _store(row: Any, j: Any, value: Any) -> None:
    """Set row[j] of activations to a float32."""


@overload(_store, inline="always")
def _overload_store(row, j, value):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def store_float32(row, j, value):  # type: ignore[no-untyped-def]
        row[j] = value

    def store_bfloat16(row, j, value):  # type: ignore[no-untyped-def]
        row[j] = np.uint16(_bfloat16(value))

    return store_float32 if row.dtype == types.float32 else store_bfloat16


def _rows_packed(x: Any, packed: Any, word: Any) -> None:
    """Write activations x (R, N) as rows of a packed matrix, from this word on."""


@overload(_rows_packed, inline="always")
def _overload_rows_packed(x, packed, word):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return _pack_float32_rows if packed.dtype == types.float32 else _pack_bfloat16_rows


def _pack_float32_rows(x, packed, word):  # type: ignore[no-untyped-def]
    width = packed.shape[2]
    for panel in range(len(packed)):
        for r in range(len(x)):
            row, target = x[r, panel * width : (panel + 1) * width], packed[panel, word + r]
            for j in range(len(row)):
                target[j] = row[j]


def _pack_bfloat16_rows(x, packed, word):  # type: ignore[no-untyped-def]
    width = packed.shape[2]
    for panel in range(len(packed)):
        for r in range(0, len(x), 2):
            row, target = x[r, panel * width : (panel + 1) * width], packed[panel, word + r // 2]
            if r + 1 < len(x):
                upper = x[r + 1, panel * width : (panel + 1) * width]
                for j in range(len(row)):
                    target[j] = np.uint32(upper[j]) << np.uint32(16) | np.uint32(row[j])
            else:
                for j in range(len(row)):
                    target[j] = np.uint32(row[j])


@compiled(*_signatures("void(X, P, int64)"), is_internal=True)
def _pack_rows(x, packed, word):  # type: ignore[no-untyped-def]
    _rows_packed(x, packed, word)


def _pack_word(matrix: Any, word: Any, first: Any, last: Any, target: Any) -> None:
    """Write the columns first to last of one word of a float32 matrix (K, N), to one row of a panel."""


@overload(_pack_word, inline="always")
def _overload_pack_word(matrix, word, first, last, target):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def pack_float32(matrix, word, first, last, target):  # type: ignore[no-untyped-def]
        row = matrix[word, first:last]
        for j in range(len(row)):
            target[j] = row[j]

    def pack_bfloat16(matrix, word, first, last, target):  # type: ignore[no-untyped-def]
        row = matrix[2 * word, first:last]
        if 2 * word + 1 < len(matrix):
            upper = matrix[2 * word + 1, first:last]
            for j in range(len(row)):
                target[j] = _bfloat16(upper[j]) << np.uint32(16) | _bfloat16(row[j])
        else:
            for j in range(len(row)):
                target[j] = _bfloat16(row[j])

    return pack_float32 if target.dtype == types.float32 else pack_bfloat16


def _pack_column(values: Any, panel: Any, column: Any) -> None:
    """Write float32 values (K,) as a column of a panel (words, columns)."""


@overload(_pack_column, inline="always")
def _overload_pack_column(values, panel, column):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def pack_float32(values, panel, column):  # type: ignore[no-untyped-def]
        for k in range(len(values)):
            panel[k, column] = values[k]

    def pack_bfloat16(values, panel, column):  # type: ignore[no-untyped-def]
        for k in range(0, len(values) - 1, 2):
            panel[k // 2, column] = _bfloat16(values[k + 1]) << np.uint32(16) | _bfloat16(values[k])
        if len(values) % 2:
            panel[len(values) // 2, column] = _bfloat16(values[len(values) - 1])

    return pack_float32 if panel.dtype == types.float32 else pack_bfloat16


# ---- gates


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


@compiled(f"void({_F2}, {_F2}, {_F2}, {_F2}, {_F2})", is_internal=True)
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


@compiled(
    f"void({_F2}, {_F2}, {_F2}, {_F2}, {_F2}, {_F2}, {_F2}, {_F2}, int32[::1], {_F2})", is_internal=True
)
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


# ---- losses


@compiled(f"float64({_F1}, float32)", is_internal=True)
def _softmax(z, logit):  # type: ignore[no-untyped-def]
    """Replace logits z (V,) by probabilities; return -log of the probability that belongs to `logit`."""
    largest = z[0]
    for i in range(1, len(z)):
        largest = max(largest, z[i])
    for i in range(len(z)):
        z[i] = exp(z[i] - largest)
    total = 0.0
    for i in range(len(z)):
        total += z[i]
    inverse = np.float32(1 / total)
    for i in range(len(z)):
        z[i] *= inverse
    return np.log(total) - (logit - largest)


@compiled(*_signatures(f"void({_F1}, float32, X1, {_F1})"), is_internal=True)
def _write_gradient(gradient, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """Write a gradient (N,) times `scale` to activations, and add it to that of the biases (N,)."""
    for i in range(len(gradient)):
        gradient[i] *= scale
        d_bias[i] += gradient[i]
    for i in range(len(gradient)):
        _store(d, i, gradient[i])


# ---- entry points


@compiled(*_signatures(f"void({_F2}, P)"))
def pack(matrix, packed):  # type: ignore[no-untyped-def]
    """Write a float32 matrix (K, N) as a packed matrix."""
    width = packed.shape[2]
    for panel in range(len(packed)):
        first, last = panel * width, (panel + 1) * width
        for word in range(packed.shape[1]):
            _pack_word(matrix, word, first, last, packed[panel, word])


@compiled(*_signatures(f"void({_F2}, P)"))
def pack_transposed(matrix, packed):  # type: ignore[no-untyped-def]
    """Write the transpose of a float32 matrix (N, K) as a packed matrix."""
    width = packed.shape[2]
    for n in range(len(matrix)):
        panel, column = n // width, n % width
        _pack_column(matrix[n], packed[panel], column)


@compiled(*_signatures("void(X3, P)"))
def pack_steps(x, packed):  # type: ignore[no-untyped-def]
    """Write activations (T, B, N) as a packed matrix (T * B, N), with whole words for every step."""
    words = packed.shape[1] // len(x)
    for t in range(len(x)):
        _pack_rows(x[t], packed, t * words)


@compiled(*_signatures(f"void({_F2}, {_IDS}, X3)"))
def gather(table, ids, x):  # type: ignore[no-untyped-def]
    """Write rows ids[t, b] of a table (N, E) to x[t, b, :E] of activations (T, B, E or more)."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            row, target = table[ids[t, b]], x[t, b]
            for j in range(len(row)):
                _store(target, j, row[j])


@compiled(f"void({_F3}, {_IDS}, {_F2})")
def add_rows(d, ids, table):  # type: ignore[no-untyped-def]
    """Add each d[t, b, :E] to row ids[t, b] of a table (N, E)."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            row, added = table[ids[t, b]], d[t, b]
            for j in range(len(row)):
                row[j] += added[j]


@compiled(*_signatures(f"void(P, X, {_F2})"))
def add_product(packed, x, sums):  # type: ignore[no-untyped-def]
    """Add activations (M, K) times a packed matrix to sums (M, N)."""
    _add_product(packed, x, sums)


@compiled(*_signatures(f"void(P, P, {_F2})"))
def add_transposed_product(x, packed, sums):  # type: ignore[no-untyped-def]
    """Add X' W to sums (M, N), where X (K, M) and W (K, N) are packed."""
    _add_transposed(x, packed, sums)


@compiled(
    *_signatures(f"void({_F2}, {_IDS}, P, X3, int64, X3, {_F2}, {_F2}, {_F2}, {_F2}, {_F3}, {_F3})"),
)
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
                _store(x, j, output[j])
        _add_product(packed, xs[t], sums)
        _gates(sums, gates[t], c_before, cs[t], h)
        for b in range(len(h)):
            output, dropped, factor = h[b], above[t, b], mask[b]
            for j in range(len(output)):
                _store(dropped, j, output[j] * factor[j])


@compiled(
    *_signatures(
        f"void({_F3}, {_F3}, {_F2}, {_F3}, {_F2}, P, int64, X, {_F2}, {_F3}, {_F2}, {_F2}, {_IDS}, {_F2}, P)"
    ),
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
                _store(row, j, d[j])
        _pack_rows(x, packed_dz, t * words)
        d_x = d_xs[t % len(d_xs)]
        d_x[:] = 0
        _add_product(packed, x, d_x)
        for b in range(len(dh)):
            d, passed = dh[b], d_x[b, inputs:]
            for j in range(len(d)):
                d[j] = passed[j]


@compiled(*_signatures(f"float64({_F2}, int32[::1], float32, X, {_F1})"))
def cross_entropy(logits, targets, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """Return the summed loss of R predictions, in nats, and write its gradient times `scale`.

    Args:
        logits: (R, V or more); overwritten.
        targets: (R,) int32 ids.
        scale: what gradients are multiplied by.
        d: (R, V or more) activations, filled with the gradient of the logits.
        d_bias: (V,), to which the gradient of the biases is added.
    """
    loss = 0.0
    for r in range(len(targets)):
        p, target = logits[r, : len(d_bias)], targets[r]
        loss += _softmax(p, p[target])
        p[target] -= np.float32(1)
        _write_gradient(p, scale, d[r], d_bias)
    return loss


@compiled(*_signatures(f"float64({_F2}, {_F2}, float32, X, {_F1})"))
def soft_cross_entropy(logits, targets, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """As `cross_entropy`, for targets (R, V) that are distributions over the ids."""
    loss = 0.0
    for r in range(len(targets)):
        p, target = logits[r, : len(d_bias)], targets[r]
        mean = np.float32(0)
        for i in range(len(p)):
            mean += target[i] * p[i]
        loss += _softmax(p, mean)
        for i in range(len(p)):
            p[i] -= target[i]
        _write_gradient(p, scale, d[r], d_bias)
    return loss


@compiled(*_signatures(f"void({_F2}, {_F2}, X)"))
def relu(z, mask, x):  # type: ignore[no-untyped-def]
    """Write max(z, 0) times a mask to activations.

    Args:
        z: (T * B, N or more).
        mask: (B, N).
        x: (T * B, N or more), filled.
    """
    for r in range(len(x)):
        row, target, factor = z[r], x[r], mask[r % len(mask)]
        for j in range(len(factor)):
            _store(target, j, max(row[j], np.float32(0)) * factor[j])


@compiled(*_signatures(f"void({_F2}, {_F2}, {_F2}, X, {_F1})"))
def relu_gradient(z, mask, d_above, d, d_bias):  # type: ignore[no-untyped-def]
    """Back-propagate through `relu`.

    Args:
        z: (T * B, N or more) what `relu` was given; overwritten.
        mask: (B, N).
        d_above: (T * B, N or more) the gradient of what `relu` wrote.
        d: (T * B, N or more) activations, filled with the gradient of z.
        d_bias: (N,), to which the gradient of the biases is added.
    """
    for r in range(len(d)):
        row, above, factor = z[r, : len(d_bias)], d_above[r], mask[r % len(mask)]
        for j in range(len(row)):
            row[j] = above[j] * factor[j] if row[j] > 0 else np.float32(0)
        _write_gradient(row, np.float32(1), d[r], d_bias)


# ---- the optimizer

_LANES = 16


@compiled(f"float64({_F2}, {_F1}, int64, int64)")
def average(parts, mean, first, last):  # type: ignore[no-untyped-def]
    """Write the mean of `parts` (R, N) to mean[first:last]; return the sum of its squares."""
    inverse = np.float32(1 / len(parts))
    mean = mean[first:last]
    for i in range(len(mean)):
        mean[i] = 0
    for r in range(len(parts)):
        part = parts[r, first:last]
        for i in range(len(mean)):
            mean[i] += part[i] * inverse
    squares = np.zeros(_LANES)  # summed in lanes, which the compiler vectorizes without reordering a sum
    whole = len(mean) // _LANES * _LANES
    for i in range(0, whole, _LANES):
        lanes = mean[i : i + _LANES]
        for j in range(_LANES):
            squares[j] += np.float64(lanes[j]) * np.float64(lanes[j])
    total = 0.0
    for i in range(whole, len(mean)):
        total += np.float64(mean[i]) * np.float64(mean[i])
    for j in range(_LANES):
        total += squares[j]
    return total


@compiled(f"void({_F1}, {_F1}, {_F1}, {_F1}, float32, float32, float32, float32, float32, float32)")
def adamw(values, gradient, m, v, scale, rate, decay, beta_1, beta_2, epsilon):  # type: ignore[no-untyped-def]
    """Take a step of AdamW (Loshchilov and Hutter 2019), as Keras does; all arrays are (N,).

    Args:
        values: the weights.
        gradient: their gradient.
        m: its running mean.
        v: the running mean of its squares.
        scale: what the gradient is multiplied by, for clipping.
        rate: the learning rate, corrected for the bias of m and v.
        decay: the share that weights lose.
        beta_1: the decay of m.
        beta_2: the decay of v.
        epsilon: added to the root of v.
    """
    one = np.float32(1)
    for i in range(len(values)):
        g = gradient[i] * scale
        m[i] += (g - m[i]) * (one - beta_1)
        v[i] += (g * g - v[i]) * (one - beta_2)
        values[i] -= values[i] * decay
        values[i] -= m[i] * rate / (np.sqrt(v[i]) + epsilon)
