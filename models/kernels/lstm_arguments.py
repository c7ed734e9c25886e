"""The arguments of `lstm_inference.run`, as named tuples of arrays, and the memory layout of its weights."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUANTIZED_ONE = 127
"""The quantized activation of 1.0."""

UNITS, INPUT_WEIGHTS, RECURRENT_WEIGHTS, SCALES, BASE, COLUMNS, CORRECTIONS, ZERO_POINT = range(8)
"""Columns of `PackedNetwork.layout`."""

SIGMOID_EXPONENT, TANH_EXPONENT = -1 / math.log(2), -2 / math.log(2)

EXPONENTS = (SIGMOID_EXPONENT, SIGMOID_EXPONENT, TANH_EXPONENT, SIGMOID_EXPONENT)
"""Factors of the scales and biases of the gates i, f, g, o, which turn sums into exponents of two."""

ROWS_AT_ONCE = 64
"""At most this many of T * B rows are read in one call, so that activations stay in the processor's cache."""

LOWER, UPPER, WHOLE = range(3)
"""Values of `Pipeline.part`."""


class PackedNetwork(NamedTuple):
    """The weights of a network, or of some of its consecutive layers."""

    weights: NDArray[np.int8]
    """All matrices, packed by `pack`, one after another."""
    numbers: NDArray[np.float32]
    """Scales and biases of all layers, and the first layer's table of projected inputs (V, 4H)."""
    corrections: NDArray[np.int32]
    """Per layer and column of its packed matrices: what sums start from, so that the kernel's zero point of
    activations cancels out."""
    layout: NDArray[np.int64]
    """(L + 1, 8) per layer: H, the start of each of its arrays, the columns of its packed matrices, and
    the zero point of the kernel's activations.

    The last row is the dense layer, whose units are V and which has no recurrent weights.
    """


class Sampling(NamedTuple):
    """What N choices in one call of `run` take, and their results."""

    inverse_temperature: NDArray[np.float32]
    """(B,); 0 takes the most likely id."""
    uniforms: NDArray[np.float64]
    """(N, B) in [0, 1)."""
    chosen: NDArray[np.int32]
    """(N, B), filled by `run`."""


class Pipeline(NamedTuple):
    """One of two threads that read the same text, layer-parallel, in slices that end at `ends`.

    LOWER reads with the layers below a boundary; its layout also has the layer above it. UPPER reads with
    the layers from there on, slice by slice, as soon as LOWER has done one. To balance the load LOWER also
    computes half of the input products of the layer above. LOWER is at most A slices ahead.
    """

    part: int
    """LOWER or UPPER; WHOLE if one thread runs all layers, which uses no other field."""
    ends: NDArray[np.int64]
    """(slices,) ascending positions in the text."""
    boundary_x: NDArray[np.uint8]
    """(A, slice, H of the layer below, rounded up to GROUP): its outputs, in a ring."""
    boundary_sums: NDArray[np.int32]
    """(A, slice, columns of the layer above): its input products so far, in a ring."""
    states: NDArray[np.float32]
    """(slices, S of this part), filled with the state after each slice."""
    slices_done: NDArray[np.int64]
    """(2,) by part; each part starts from its value."""
    has_ended: NDArray[np.int64]
    """(1,), set by the caller once either part has returned."""
    upper_started: NDArray[np.int64]
    """(1,)"""
    stop: NDArray[np.int64]
    """(1,); LOWER begins no slice once another thread sets it."""


def _empty(shape: tuple[int, ...], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.zeros(shape, dtype)


NO_SAMPLING = Sampling(_empty((0,), np.float32), _empty((0, 0), np.float64), _empty((0, 0), np.int32))
NO_PIPELINE = Pipeline(
    part=WHOLE,
    ends=_empty((0,), np.int64),
    boundary_x=_empty((1, 0, 0), np.uint8),
    boundary_sums=_empty((1, 0, 0), np.int32),
    states=_empty((0, 0), np.float32),
    slices_done=_empty((2,), np.int64),
    has_ended=_empty((1,), np.int64),
    upper_started=_empty((1,), np.int64),
    stop=_empty((1,), np.int64),
)


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
