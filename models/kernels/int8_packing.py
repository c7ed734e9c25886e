"""The memory layout of int8 weight matrices that `models.kernels.int8_product` multiplies."""

from typing import Any

import numpy as np

PANEL = 128
"""Columns of a weight matrix that are computed together; a packed matrix has a multiple of it."""

GROUP = 4
"""Elements of a column that one instruction multiplies; a packed matrix has a multiple of it as rows."""


def pack(weights: np.ndarray[Any, np.dtype[np.int8]]) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return (K, N) int8 as panels (N / PANEL, K / GROUP, PANEL, GROUP), flat, padded with zeros."""
    k, n = weights.shape
    padded = np.zeros((padded_rows(k), padded_columns(n)), np.int8)
    padded[:k, :n] = weights
    groups = padded.reshape(padded.shape[0] // GROUP, GROUP, padded.shape[1] // PANEL, PANEL)
    return np.ascontiguousarray(groups.transpose(2, 0, 3, 1)).ravel()


def padded_rows(rows: int) -> int:
    """Return how many rows a packed matrix has."""
    return -(-rows // GROUP) * GROUP


def padded_columns(columns: int) -> int:
    """Return how many columns a packed matrix has."""
    return -(-columns // PANEL) * PANEL
