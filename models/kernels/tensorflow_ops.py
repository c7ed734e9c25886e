"""TensorFlow operations with gradients, done by the kernels: a window of an LSTM, and products of matrices.

They run on the CPU, each in the one thread that TensorFlow gives it, and cannot be part of an XLA program.
Products are done in `dtype`: bfloat16, where the processor can, or float32. What comes in and goes out, and
everything in between, is float32.
"""

import ctypes
import time
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.kernels import lstm_training as kernels

HAS_BFLOAT16 = kernels.HAS_BFLOAT16
"""Whether this processor multiplies bfloat16 numbers; else products in it are done in float32."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


def lstm(
    z: tf.Tensor, ids: tf.Tensor, u: tf.Tensor, h: tf.Tensor, c: tf.Tensor, dtype: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run T steps from state (h, c).

    Args:
        z: (N, 4H) projected inputs; gates in Keras's order i, f, g, o.
        ids: (T, B) int32, which of them comes where.
        u: (H, 4H) recurrent weights.
        h: (B, H) the output before the first step.
        c: (B, H) the cell before the first step.
        dtype: of the products.

    Returns:
        All outputs (T, B, H), and the state (B, H), (B, H) after the last step.
    """
    steps, (rows, units) = ids.shape[0], h.shape
    in_pairs = _in_pairs(dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(z: tf.Tensor, u: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> Any:
        gates, cs, hs = tf.numpy_function(
            lambda *arrays: _forward(*arrays, in_pairs=in_pairs), [z, ids, u, h, c], [tf.float32] * 3
        )
        gates.set_shape((steps, rows, 4 * units))
        cs.set_shape((steps, rows, units))
        hs.set_shape((steps, rows, units))

        def gradient(d_hs: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple[tf.Tensor, ...]:
            arrays = [gates, cs, hs, ids, u, h, c, d_hs, d_h, d_c]
            found = tf.numpy_function(
                lambda *arrays: _backward(*arrays, inputs=z.shape[0], in_pairs=in_pairs),
                arrays,
                [tf.float32] * 4,
            )
            for one, like in zip(found, (z, u, h, c), strict=True):
                one.set_shape(like.shape)
            return tuple(found)

        return (hs, hs[-1], cs[-1]), gradient

    return run(z, u, h, c)  # type: ignore[no-any-return]


def product(a: tf.Tensor, b: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return the product (M, N) of matrices (M, K) and (K, N)."""
    in_pairs = _in_pairs(dtype)

    def multiplied(a: tf.Tensor, b: tf.Tensor, multiply: Any, shape: tuple[int, int]) -> tf.Tensor:
        found = tf.numpy_function(multiply, [a, b], tf.float32)
        found.set_shape(shape)
        return found

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(a: tf.Tensor, b: tf.Tensor) -> Any:
        def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                multiplied(d, b, lambda d, b: _product(d, b.T, in_pairs), a.shape),
                multiplied(a, d, lambda a, d: _product(a.T, d, in_pairs), b.shape),
            )

        return multiplied(a, b, lambda a, b: _product(a, b, in_pairs), (a.shape[0], b.shape[1])), gradient

    return run(a, b)


def window_seconds(
    *, layers: int, units: int, rows: int, window: int, vocabulary_size: int, dtype: str
) -> float:
    """Return the processor time of the kernels for one window in training, forward and backward.

    Processor time, in one thread: what else the machine does hardly changes it. The arrays hold numbers of no
    meaning. One layer is timed, and counted as often as there are layers.
    """
    random = np.random.default_rng(0)
    in_pairs = _in_pairs(dtype)

    def numbers(*shape: int) -> Floats:
        return random.normal(0, 0.1, shape).astype(np.float32)

    z, u = numbers(window * rows, 4 * units), numbers(units, 4 * units)
    h, c, d_hs = numbers(rows, units), numbers(rows, units), numbers(window, rows, units)
    ids = np.arange(window * rows, dtype=np.int32).reshape(window, rows)
    dense, logits = numbers(units, vocabulary_size), numbers(window * rows, vocabulary_size)

    def multiply(before: Floats, weights: Floats, after: Floats) -> float:
        """Time a product, and those of its gradients."""
        began = time.thread_time()
        _product(before, weights, in_pairs)
        _product(after, weights.T, in_pairs)
        _product(before.T, after, in_pairs)
        return time.thread_time() - began

    began = time.thread_time()
    gates, cs, hs = _forward(z, ids, u, h, c, in_pairs=in_pairs)
    _backward(gates, cs, hs, ids, u, h, c, d_hs, h, c, inputs=len(z), in_pairs=in_pairs)
    seconds = layers * (time.thread_time() - began)
    outputs = hs.reshape(-1, units)
    return seconds + (layers - 1) * multiply(outputs, u, z) + multiply(outputs, dense, logits)


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to some hundred megabytes, for the next window.

    Else each window's arrays are new memory, which the kernel fills with zeros a page at a time: a quarter
    of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not the GNU library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 256 << 20)
    mallopt(trim_threshold, 512 << 20)


_keep_freed_memory()


def _in_pairs(dtype: str) -> bool:
    return dtype == "bfloat16" and kernels.HAS_BFLOAT16


def _forward(z: Floats, ids: Ids, u: Floats, h0: Floats, c0: Floats, *, in_pairs: bool) -> tuple[Floats, ...]:
    """Return gates (T, B, 4H), cells and outputs (T, B, H)."""
    packed, x, sums = _room(u, len(h0), in_pairs)
    shape = (*ids.shape, len(u))
    gates, cs, hs = np.empty((*ids.shape, u.shape[1]), np.float32), _empty(shape), _empty(shape)
    kernels.forward(z, ids, packed, h0, c0, x, sums, gates, cs, hs)
    return gates, cs, hs


def _backward(
    gates: Floats,
    cs: Floats,
    hs: Floats,
    ids: Ids,
    u: Floats,
    h0: Floats,
    c0: Floats,
    d_hs: Floats,
    d_h: Floats,
    d_c: Floats,
    *,
    inputs: int,
    in_pairs: bool,
) -> tuple[Floats, ...]:
    """Return the gradients of z, u, h0 and c0."""
    packed, x, dh = _room(u.T, len(h0), in_pairs)
    dh[:, : h0.shape[1]] = d_h
    dc, dz = d_c.copy(), np.empty_like(gates)
    kernels.backward(gates, cs, c0, d_hs, packed, x, dh, dc, dz)
    flat = dz.reshape(-1, dz.shape[2])
    h_before = np.concatenate([h0[None], hs[:-1]]).reshape(len(flat), -1)
    d_table = flat
    if inputs != len(flat):
        d_table = np.zeros((inputs, dz.shape[2]), np.float32)
        kernels.add_rows(dz, ids, d_table)
    return d_table, _product(h_before.T, flat, in_pairs), np.ascontiguousarray(dh[:, : h0.shape[1]]), dc


def _product(a: Floats, b: Floats, in_pairs: bool) -> Floats:
    """Return a (M, K) @ b (K, N)."""
    packed, x, sums = _room(b, len(a), in_pairs)
    kernels.convert(a, x)
    kernels.add_product(packed, x, sums)
    return np.ascontiguousarray(sums[:, : b.shape[1]])


def _room(matrix: Floats, rows: int, in_pairs: bool) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Return a matrix (K, N) packed, and zeros as wide as it is: activations (rows, K), sums (rows, N)."""
    k, n = matrix.shape
    panels = -(-n // kernels.PANEL)
    if in_pairs:
        words = -(-k // 2)
        packed = np.empty((panels, words, kernels.PANEL), np.uint32)
        kernels.pack_bfloats(matrix, packed)
        x: NDArray[Any] = np.zeros((rows, 2 * words), np.uint16)
    else:
        packed = np.empty((panels, k, kernels.PANEL), np.float32)
        kernels.pack_floats(matrix, packed)
        x = np.zeros((rows, k), np.float32)
    return packed, x, np.zeros((rows, panels * kernels.PANEL), np.float32)


def _empty(shape: tuple[int, ...]) -> Floats:
    return np.empty(shape, np.float32)
