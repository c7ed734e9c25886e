"""Activations and packed matrices, the factors of products in training, compiled when first imported.

Products are float32, or bfloat16 with float32 sums if HAS_BFLOAT16. Arrays of activations are float32, or
uint16 for bfloat16. Packed matrices are those of `nextchar.models.kernels.product_kernels`: (N / panel,
words, panel), float32, or uint32 for pairs of bfloat16 numbers. Both may be padded with zeros.

    pack, pack_transposed, pack_steps   make packed matrices
    gather, add_rows                    rows of a table, and their gradient
    add_product                         adds the product of activations and a packed matrix
    add_transposed_product              adds the gradient of a matrix

The functions with `multiply` and `store` in their names become part of the compiled ones that call them.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from nextchar.models.kernels.jit import compiled, inline_jit
from nextchar.models.kernels.lstm_weights import Floats
from nextchar.models.kernels.product_kernels import compiled_product, compiled_transposed_product
from nextchar.models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL

HAS_BFLOAT16 = BFLOAT16_KERNEL is not None
"""Whether the processor has bfloat16 products."""

_add_float32 = compiled_product("float32", FLOAT32_KERNEL)
_add_bfloat16 = compiled_product("bfloat16", BFLOAT16_KERNEL) if BFLOAT16_KERNEL else _add_float32
_add_transposed_float32 = compiled_transposed_product("float32", FLOAT32_KERNEL)
_add_transposed_bfloat16 = (
    compiled_transposed_product("bfloat16", BFLOAT16_KERNEL) if BFLOAT16_KERNEL else _add_transposed_float32
)


def multiply_add(packed: Any, x: Any, sums: Any) -> None:
    """Add x (M, K) times a packed matrix to sums (M, N); K and N are those of the packed matrix."""


@overload(multiply_add, inline="always")
def _overload_add_product(packed, x, sums):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def add_float32(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_float32(packed.reshape(packed.size), 0, x, sums, 0, len(x))

    def add_bfloat16(packed, x, sums):  # type: ignore[no-untyped-def]
        _add_bfloat16(packed.reshape(packed.size), 0, x, sums, 0, len(x))

    return add_float32 if packed.dtype == types.float32 else add_bfloat16


def multiply_add_transposed(x: Any, packed: Any, sums: Any) -> None:
    """Add X' W to sums (M, N), where X (K, M) and W (K, N) are packed."""


@overload(multiply_add_transposed, inline="always")
def _overload_add_transposed(x, packed, sums):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def add_float32(x, packed, sums):  # type: ignore[no-untyped-def]
        _add_transposed_float32(x, packed, sums)

    def add_bfloat16(x, packed, sums):  # type: ignore[no-untyped-def]
        _add_transposed_bfloat16(x, packed, sums)

    return add_float32 if packed.dtype == types.float32 else add_bfloat16


def signatures(template: str) -> list[str]:
    """Return a signature per number format; P is a packed matrix, X1, X and X3 are arrays of activations."""
    formats = [("float32", "float32")]
    if HAS_BFLOAT16:
        formats.append(("uint32", "uint16"))
    shapes = {"P": "{0}[:,:,::1]", "X3": "{1}[:,:,::1]", "X1": "{1}[::1]", "X": "{1}[:,::1]"}
    for name, shape in shapes.items():
        template = template.replace(name, shape)
    return [template.format(*one) for one in formats]


F1, F2, F3, IDS = "float32[::1]", "float32[:,::1]", "float32[:,:,::1]", "int32[:,::1]"


@inline_jit
def _bfloat16(value):  # type: ignore[no-untyped-def]
    """Return the bits of the nearest bfloat16 number, rounding ties to even."""
    bits = np.float32(value).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def store(row: Any, j: Any, value: Any) -> None:
    """Set row[j] of activations to a float32."""


@overload(store, inline="always")
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


@compiled(*signatures("void(X, P, int64)"), is_internal=True)
def pack_rows_from(x, packed, word):  # type: ignore[no-untyped-def]
    """Write activations x (R, N) as rows of a packed matrix, from this word on."""
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


@compiled(*signatures(f"void({F2}, P)"))
def pack(matrix, packed):  # type: ignore[no-untyped-def]
    """Write a float32 matrix (K, N) as a packed matrix."""
    width = packed.shape[2]
    for panel in range(len(packed)):
        first, last = panel * width, (panel + 1) * width
        for word in range(packed.shape[1]):
            _pack_word(matrix, word, first, last, packed[panel, word])


@compiled(*signatures(f"void({F2}, P)"))
def pack_transposed(matrix, packed):  # type: ignore[no-untyped-def]
    """Write the transpose of a float32 matrix (N, K) as a packed matrix."""
    width = packed.shape[2]
    for n in range(len(matrix)):
        panel, column = n // width, n % width
        _pack_column(matrix[n], packed[panel], column)


@compiled(*signatures("void(X3, P)"))
def pack_steps(x, packed):  # type: ignore[no-untyped-def]
    """Write activations (T, B, N) as a packed matrix (T * B, N), with whole words for every step."""
    words = packed.shape[1] // len(x)
    for t in range(len(x)):
        pack_rows_from(x[t], packed, t * words)


@compiled(*signatures(f"void({F2}, {IDS}, X3)"))
def gather(table, ids, x):  # type: ignore[no-untyped-def]
    """Write rows ids[t, b] of a table (N, E) to x[t, b, :E] of activations (T, B, E or more)."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            row, target = table[ids[t, b]], x[t, b]
            for j in range(len(row)):
                store(target, j, row[j])


@compiled(f"void({F3}, {IDS}, {F2})")
def add_rows(d, ids, table):  # type: ignore[no-untyped-def]
    """Add each d[t, b, :E] to row ids[t, b] of a table (N, E)."""
    for t in range(len(ids)):
        for b in range(ids.shape[1]):
            row, added = table[ids[t, b]], d[t, b]
            for j in range(len(row)):
                row[j] += added[j]


@compiled(*signatures(f"void(P, X, {F2})"))
def add_product(packed, x, sums):  # type: ignore[no-untyped-def]
    """Add activations (M, K) times a packed matrix to sums (M, N)."""
    multiply_add(packed, x, sums)


@compiled(*signatures(f"void(P, P, {F2})"))
def add_transposed_product(x, packed, sums):  # type: ignore[no-untyped-def]
    """Add X' W to sums (M, N), where X (K, M) and W (K, N) are packed."""
    multiply_add_transposed(x, packed, sums)


class ProductFormat:
    """Makes arrays for products in one number format."""

    def __init__(self, dtype: str) -> None:
        self.is_bfloat16 = dtype == "bfloat16" and HAS_BFLOAT16
        kernel = (BFLOAT16_KERNEL if self.is_bfloat16 else None) or FLOAT32_KERNEL
        self.panel, self.per_word = kernel.panel, 2 if self.is_bfloat16 else 1

    def activations(self, *shape: int) -> NDArray[Any]:
        """Return zeros (..., K), with whole words."""
        width = -(-shape[-1] // self.per_word) * self.per_word
        return np.zeros((*shape[:-1], width), np.uint16 if self.is_bfloat16 else np.float32)

    def packed(self, k: int, n: int, *, steps: int = 1) -> NDArray[Any]:
        """Return a packed matrix (steps * K, N) of zeros, with whole words for every step."""
        shape = -(-n // self.panel), steps * -(-k // self.per_word), self.panel
        return np.zeros(shape, np.uint32 if self.is_bfloat16 else np.float32)

    def sums(self, *shape: int) -> Floats:
        """Return zeros (..., N), with whole panels."""
        return np.zeros((*shape[:-1], -(-shape[-1] // self.panel) * self.panel), np.float32)
