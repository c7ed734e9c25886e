"""The loops of LSTM training, compiled to machine code when first imported.

    forward       inputs, recurrent weights, state -> gates, cells, outputs
    backward      those and the gradients of the outputs -> the gradients of inputs and state
    add_product   the product of two matrices

Faster than general libraries at these sizes: recurrent weights are packed once for all steps of a window,
gates are computed while their sums are in the cache, and inputs from a small table of projected embeddings
are never materialized. Products are float32, or bfloat16 with float32 sums if HAS_BFLOAT16; all else is
float32. A call runs in the calling thread and releases the GIL. Results are bit-identical from run to run.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from models.kernels.activations import sigmoid, tanh
from models.kernels.jit import compiled, inline_jit
from models.kernels.product_kernels import add_product_of
from models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL

HAS_BFLOAT16 = BFLOAT16_KERNEL is not None
"""Whether the processor has bfloat16 products."""

_add_float32 = add_product_of(FLOAT32_KERNEL)
_add_bfloat16 = add_product_of(BFLOAT16_KERNEL or FLOAT32_KERNEL)


def _add_product(packed: Any, x: Any, sums: Any) -> None:
    """Add x (M, K) times a packed matrix to sums (M, N); K and N are those of the packed matrix."""


@overload(_add_product, inline="always")
def _overload_add_product(packed, x, sums):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def add_float32(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_float32(packed, 0, x, sums, 0, len(x))

    def add_bfloat16(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_bfloat16(packed, 0, x, sums, 0, len(x))

    return add_float32 if packed.dtype == types.float32 else add_bfloat16


# ---- bfloat16


@inline_jit
def _bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the bits of the nearest bfloat16 number, rounding ties to even."""
    bits = np.float32(value).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def _store(array: Any, row: Any, column: Any, value: Any) -> None:
    """Set array[row, column] of activations (float32, or uint16 for bfloat16) to a float32."""


@overload(_store, inline="always")
def _overload_store(array, row, column, value):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def store_float32(array, row, column, value):  # type: ignore[no-untyped-def]
        array[row, column] = value

    def store_bfloat16(array, row, column, value):  # type: ignore[no-untyped-def]
        array[row, column] = np.uint16(_bfloat16(value))

    return store_float32 if array.dtype == types.float32 else store_bfloat16


# ---- gates


@inline_jit
def _gates(z, sums, gates, before, c, h):  # type: ignore[no-untyped-def]
    """One step of one row: compute gates (4H,), the next cell c and output h (H,); `before` is the last c."""
    into, forget, cell, out = _split_gates(gates)
    z_into, z_forget, z_cell, z_out = _split_gates(z)
    sum_into, sum_forget, sum_cell, sum_out = _split_gates(sums[: len(z)])
    for j in range(len(c)):
        into[j] = sigmoid(z_into[j] + sum_into[j])
    for j in range(len(c)):
        forget[j] = sigmoid(z_forget[j] + sum_forget[j])
    for j in range(len(c)):
        cell[j] = tanh(z_cell[j] + sum_cell[j])
    for j in range(len(c)):
        out[j] = sigmoid(z_out[j] + sum_out[j])
    for j in range(len(c)):
        c[j] = forget[j] * before[j] + into[j] * cell[j]
    for j in range(len(c)):
        h[j] = out[j] * tanh(c[j])


@inline_jit
def _gradients(gates, before, c, d_h, dh, dc, dz):  # type: ignore[no-untyped-def]
    """One backward step of one row: from the gradients of h and c compute those of the gate inputs dz (4H,).

    dh is passed back by the next step, d_h comes from this step's output; dc becomes that of the last c.
    """
    into, forget, cell, out = _split_gates(gates)
    d_into, d_forget, d_cell, d_out = _split_gates(dz)
    one = np.float32(1)
    for j in range(len(c)):
        tanh_c = tanh(c[j])
        grad_h = dh[j] + d_h[j]
        i, f, g, o = into[j], forget[j], cell[j], out[j]
        grad_c = dc[j] + grad_h * o * (one - tanh_c * tanh_c)
        d_into[j] = grad_c * g * i * (one - i)
        d_forget[j] = grad_c * before[j] * f * (one - f)
        d_cell[j] = grad_c * i * (one - g * g)
        d_out[j] = grad_h * tanh_c * o * (one - o)
        dc[j] = grad_c * f


@inline_jit
def _split_gates(row):  # type: ignore[no-untyped-def]
    units = len(row) // 4
    return row[:units], row[units : 2 * units], row[2 * units : 3 * units], row[3 * units :]


# ---- entry points


def _signatures(template: str) -> list[str]:
    """Return a signature per number format; P is a packed matrix and X an array of activations."""
    formats = [("float32[:,:,::1]", "float32[:,::1]")]
    if HAS_BFLOAT16:
        formats.append(("uint32[:,:,::1]", "uint16[:,::1]"))
    return [template.replace("P", packed).replace("X", x) for packed, x in formats]


_VARIANT = "_".join(kernel.name for kernel in (FLOAT32_KERNEL, BFLOAT16_KERNEL) if kernel)
_F2, _F3, _IDS = "float32[:,::1]", "float32[:,:,::1]", "int32[:,::1]"

_BLOCK = 16  # matrices are read in square blocks, because they may be transposed


_LAYOUTS = ("float32[:,::1]", "float32[::1,:]")  # rows or columns are contiguous: each has its own code


@compiled(*(f"void({matrix}, float32[:,:,::1])" for matrix in _LAYOUTS))
def pack_float32(matrix, packed):  # type: ignore[no-untyped-def]
    """Write a matrix (K, N) as panels (N / panel, K, panel), padded with zeros."""
    width = packed.shape[2]
    for first in range(0, len(matrix), _BLOCK):
        last = min(first + _BLOCK, len(matrix))
        for panel in range(len(packed)):
            columns = matrix[first:last, panel * width : (panel + 1) * width]
            target = packed[panel, first:last]
            for k in range(len(columns)):
                for j in range(columns.shape[1]):
                    target[k, j] = columns[k, j]
                for j in range(columns.shape[1], width):
                    target[k, j] = 0


@compiled(*(f"void({matrix}, uint32[:,:,::1])" for matrix in _LAYOUTS))
def pack_bfloat16(matrix, packed):  # type: ignore[no-untyped-def]
    """Write a matrix (K, N) as panels (N / panel, K / 2, panel), padded with zeros.

    Each uint32 has the bfloat16 numbers of two consecutive rows.
    """
    pairs, width = matrix.shape[0] // 2, packed.shape[2]
    for panel in range(len(packed)):
        columns = matrix[:, panel * width : (panel + 1) * width]
        target = packed[panel]
        if columns.shape[1] < width:
            target[:] = 0
        for k in range(pairs):
            for j in range(columns.shape[1]):
                upper = _bfloat16(columns[2 * k + 1, j]) << np.uint32(16)
                target[k, j] = _bfloat16(columns[2 * k, j]) | upper
        if matrix.shape[0] % 2:
            for j in range(columns.shape[1]):
                target[pairs, j] = _bfloat16(columns[2 * pairs, j])


@compiled(*(s.replace("M,", f"{m},") for m in _LAYOUTS for s in _signatures("void(M, X)")))
def convert(matrix, x):  # type: ignore[no-untyped-def]
    """Write a float32 matrix (M, K) to activations (M, K or more)."""
    for first in range(0, matrix.shape[0], _BLOCK):
        last = min(first + _BLOCK, matrix.shape[0])
        for begin in range(0, matrix.shape[1], _BLOCK):
            for m in range(first, last):
                for k in range(begin, min(begin + _BLOCK, matrix.shape[1])):
                    _store(x, m, k, matrix[m, k])


@compiled(*_signatures(f"void(P, X, {_F2})"), variant=_VARIANT)
def add_product(packed, x, sums):  # type: ignore[no-untyped-def]
    """Add activations (M, K) times a packed matrix to sums (M, N)."""
    _add_product(packed, x, sums)


@compiled(
    *_signatures(f"void({_F2}, {_IDS}, P, {_F2}, {_F2}, X, {_F2}, {_F3}, {_F3}, {_F3})"), variant=_VARIANT
)
def forward(z, ids, packed, h0, c0, x, sums, gates, cs, hs):  # type: ignore[no-untyped-def]
    """Run T steps.

    Args:
        z: (N, 4H) projected inputs; gates in Keras's order i, f, g, o.
        ids: (T, B) int32 rows of z.
        packed: the recurrent weights (H, 4H).
        h0: (B, H) the output before the first step.
        c0: (B, H) the cell before the first step.
        x: (B, H or more) workspace, zeros.
        sums: (B, 4H or more) workspace.
        gates: (T, B, 4H), filled with the gates after their nonlinearities.
        cs: (T, B, H), filled with the cells.
        hs: (T, B, H), filled with the outputs.
    """
    units = h0.shape[1]
    for t in range(len(ids)):
        h_before, c_before = (hs[t - 1], cs[t - 1]) if t else (h0, c0)
        for b in range(ids.shape[1]):
            for j in range(units):
                _store(x, b, j, h_before[b, j])
        sums[:] = 0
        _add_product(packed, x, sums)
        for b in range(ids.shape[1]):
            _gates(z[ids[t, b]], sums[b], gates[t, b], c_before[b], cs[t, b], hs[t, b])


@compiled(*_signatures(f"void({_F3}, {_F3}, {_F2}, {_F3}, P, X, {_F2}, {_F2}, {_F3})"), variant=_VARIANT)
def backward(gates, cs, c0, d_hs, packed, x, dh, dc, dz):  # type: ignore[no-untyped-def]
    """Back-propagate through the T steps of `forward`.

    Args:
        gates: (T, B, 4H) from `forward`.
        cs: (T, B, H) from `forward`.
        c0: (B, H) the cell before the first step.
        d_hs: (T, B, H) the gradient of all outputs.
        packed: the transposed recurrent weights (4H, H).
        x: (B, 4H or more) workspace, zeros.
        dh: (B, H or more) the gradient of the final output as a state; replaced by that of h0.
        dc: (B, H) the gradient of the final cell; replaced by that of c0.
        dz: (T, B, 4H), filled with the gradient of the projected inputs.
    """
    for steps_back in range(1, len(cs) + 1):
        t = len(cs) - steps_back
        before = cs[t - 1] if t else c0
        for b in range(cs.shape[1]):
            _gradients(gates[t, b], before[b], cs[t, b], d_hs[t, b], dh[b], dc[b], dz[t, b])
            for j in range(dz.shape[2]):
                _store(x, b, j, dz[t, b, j])
        dh[:] = 0
        _add_product(packed, x, dh)


@compiled(f"void({_F3}, {_IDS}, {_F2})")
def add_rows(dz, ids, table):  # type: ignore[no-untyped-def]
    """Add each dz[t, b] to row ids[t, b] of a table (N, 4H)."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            row = table[ids[t, b]]
            for j in range(len(row)):
                row[j] += dz[t, b, j]
