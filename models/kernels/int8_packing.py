"""The memory layout of the int8 weight matrices that `nextchar.models.kernels.product_kernels` multiplies."""

from typing import Any

import numpy as np

GROUP = 4
"""Elements of a column that one instruction multiplies; a packed matrix has a multiple of it as rows."""


def pack(weights: np.ndarray[Any, np.dtype[np.int8]], panel: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return (K, N) int8 as panels (N / panel, K / GROUP, panel, GROUP), flat, padded with zeros."""
    k, n = weights.shape
    padded = np.zeros((padded_rows(k), padded_columns(n, panel)), np.int8)
    padded[:k, :n] = weights
    groups = padded.reshape(padded.shape[0] // GROUP, GROUP, padded.shape[1] // panel, panel)
    return np.ascontiguousarray(groups.transpose(2, 0, 3, 1)).ravel()


def padded_rows(rows: int) -> int:
    """Return how many rows a packed matrix has."""
    return -(-rows // GROUP) * GROUP


def padded_columns(columns: int, panel: int) -> int:
    """Return how many columns a packed matrix has."""
    return -(-columns // panel) * panel
