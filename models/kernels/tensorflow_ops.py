"""Differentiable TensorFlow operations on the kernels: a window of an LSTM, and matrix products.

They run on the CPU, each in one thread, and cannot be part of an XLA program. Products are computed in
`dtype`: float32, or bfloat16 if the processor supports it. Inputs, outputs and all else are float32.
"""

import ctypes
import time
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.kernels import lstm_training as kernels
from models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL

HAS_BFLOAT16 = kernels.HAS_BFLOAT16
"""Whether this processor multiplies bfloat16 numbers; if not, float32 is used in its place."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


def lstm(
    z: tf.Tensor, ids: tf.Tensor, u: tf.Tensor, h: tf.Tensor, c: tf.Tensor, dtype: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run T steps from state (h, c).

    Args:
        z: (N, 4H) projected inputs; gates in Keras's order i, f, g, o.
        ids: (T, B) int32 rows of z.
        u: (H, 4H) recurrent weights.
        h: (B, H) the output before the first step.
        c: (B, H) the cell before the first step.
        dtype: number format of the products.

    Returns:
        All outputs (T, B, H), and the state (B, H), (B, H) after the last step.
    """
    steps, (rows, units) = ids.shape[0], h.shape
    use_bfloat16 = _use_bfloat16(dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(z: tf.Tensor, u: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> Any:
        gates, cs, hs = tf.numpy_function(
            lambda *arrays: _forward(*arrays, use_bfloat16=use_bfloat16), [z, ids, u, h, c], [tf.float32] * 3
        )
        gates.set_shape((steps, rows, 4 * units))
        cs.set_shape((steps, rows, units))
        hs.set_shape((steps, rows, units))

        def gradient(d_hs: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple[tf.Tensor, ...]:
            arrays = [gates, cs, hs, ids, u, h, c, d_hs, d_h, d_c]
            gradients = tf.numpy_function(
                lambda *arrays: _backward(*arrays, inputs=z.shape[0], use_bfloat16=use_bfloat16),
                arrays,
                [tf.float32] * 4,
            )
            for d, argument in zip(gradients, (z, u, h, c), strict=True):
                d.set_shape(argument.shape)
            return tuple(gradients)

        return (hs, hs[-1], cs[-1]), gradient

    return run(z, u, h, c)  # type: ignore[no-any-return]


def product(a: tf.Tensor, b: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return the product (M, N) of matrices (M, K) and (K, N)."""
    use_bfloat16 = _use_bfloat16(dtype)

    def apply(multiply: Any, a: tf.Tensor, b: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
        result = tf.numpy_function(multiply, [a, b], tf.float32)
        result.set_shape(shape)
        return result

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(a: tf.Tensor, b: tf.Tensor) -> Any:
        def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                apply(lambda d, b: _product(d, b.T, use_bfloat16), d, b, a.shape),
                apply(lambda a, d: _product(a.T, d, use_bfloat16), a, d, b.shape),
            )

        return apply(lambda a, b: _product(a, b, use_bfloat16), a, b, (a.shape[0], b.shape[1])), gradient

    return run(a, b)


def window_seconds(
    *, layers: int, units: int, rows: int, window: int, vocabulary_size: int, dtype: str
) -> float:
    """Measure the CPU time of the kernels for one training window, forward and backward, in one thread.

    CPU time is nearly independent of other load on the machine. The arrays are random. One layer is timed and
    multiplied by the number of layers.
    """
    random = np.random.default_rng(0)
    use_bfloat16 = _use_bfloat16(dtype)

    def normal(*shape: int) -> Floats:
        return random.normal(0, 0.1, shape).astype(np.float32)

    z, u = normal(window * rows, 4 * units), normal(units, 4 * units)
    h, c, d_hs = normal(rows, units), normal(rows, units), normal(window, rows, units)
    ids = np.arange(window * rows, dtype=np.int32).reshape(window, rows)
    dense, logits = normal(units, vocabulary_size), normal(window * rows, vocabulary_size)

    def multiply(before: Floats, weights: Floats, after: Floats) -> float:
        """Time a product and its gradients."""
        started = time.thread_time()
        _product(before, weights, use_bfloat16)
        _product(after, weights.T, use_bfloat16)
        _product(before.T, after, use_bfloat16)
        return time.thread_time() - started

    started = time.thread_time()
    gates, cs, hs = _forward(z, ids, u, h, c, use_bfloat16=use_bfloat16)
    _backward(gates, cs, hs, ids, u, h, c, d_hs, h, c, inputs=len(z), use_bfloat16=use_bfloat16)
    seconds = layers * (time.thread_time() - started)
    outputs = hs.reshape(-1, units)
    return seconds + (layers - 1) * multiply(outputs, u, z) + multiply(outputs, dense, logits)


def _keep_freed_memory() -> None:
    """Make malloc keep up to 512 MB of freed memory for the next window.

    By default it is returned to the system, and the page faults of each window's new arrays take a quarter of
    a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 256 << 20)
    mallopt(trim_threshold, 512 << 20)


_keep_freed_memory()


def _use_bfloat16(dtype: str) -> bool:
    return dtype == "bfloat16" and kernels.HAS_BFLOAT16


def _forward(
    z: Floats, ids: Ids, u: Floats, h0: Floats, c0: Floats, *, use_bfloat16: bool
) -> tuple[Floats, ...]:
    """Return gates (T, B, 4H), cells and outputs (T, B, H)."""
    packed, x, sums = _workspace(u, len(h0), use_bfloat16)
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
    use_bfloat16: bool,
) -> tuple[Floats, ...]:
    """Return the gradients of z, u, h0 and c0."""
    packed, x, dh = _workspace(u.T, len(h0), use_bfloat16)
    dh[:, : h0.shape[1]] = d_h
    dc, dz = d_c.copy(), np.empty_like(gates)
    kernels.backward(gates, cs, c0, d_hs, packed, x, dh, dc, dz)
    flat = dz.reshape(-1, dz.shape[2])
    h_before = np.concatenate([h0[None], hs[:-1]]).reshape(len(flat), -1)
    d_table = flat
    if inputs != len(flat):
        d_table = np.zeros((inputs, dz.shape[2]), np.float32)
        kernels.add_rows(dz, ids, d_table)
    return d_table, _product(h_before.T, flat, use_bfloat16), np.ascontiguousarray(dh[:, : h0.shape[1]]), dc


def _product(a: Floats, b: Floats, use_bfloat16: bool) -> Floats:
    """Return a (M, K) @ b (K, N)."""
    packed, x, sums = _workspace(b, len(a), use_bfloat16)
    if x.dtype == a.dtype and a.flags.c_contiguous:
        x = a
    else:
        kernels.convert(a, x)
    kernels.add_product(packed, x, sums)
    return np.ascontiguousarray(sums[:, : b.shape[1]])


def _workspace(matrix: Floats, rows: int, use_bfloat16: bool) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Return a matrix (K, N), packed, and activations (rows, K) and zeroed sums (rows, N), padded alike.

    Activations are not initialized, but for their padding.
    """
    k, n = matrix.shape
    kernel = (BFLOAT16_KERNEL if use_bfloat16 else None) or FLOAT32_KERNEL
    panels = -(-n // kernel.panel)
    if use_bfloat16:
        words = -(-k // 2)
        packed = np.empty((panels, words, kernel.panel), np.uint32)
        kernels.pack_bfloat16(matrix, packed)
        x: NDArray[Any] = np.zeros((rows, 2 * words), np.uint16)
    else:
        packed = np.empty((panels, k, kernel.panel), np.float32)
        kernels.pack_float32(matrix, packed)
        x = _empty((rows, k))
    return packed, x, np.zeros((rows, panels * kernel.panel), np.float32)


def _empty(shape: tuple[int, ...]) -> Floats:
    return np.empty(shape, np.float32)
