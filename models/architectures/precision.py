"""Matrix products in fewer bits, for mixed precision: everything around them stays float32."""

from __future__ import annotations

from typing import Any

from models.architectures.lazy import tf


def product(a: tf.Tensor, b: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Return the matrix product of two tensors as float32, after doing it in `dtype`.

    `dtype` is a Keras layer's `compute_dtype`: float32 unless the layer was made under a mixed policy.
    """
    if tf.config.list_logical_devices("GPU"):
        return tf.cast(tf.matmul(tf.cast(a, dtype), tf.cast(b, dtype)), tf.float32)
    from models.kernels import tensorflow_ops  # compiles kernels, which a machine with a GPU does not need

    return tensorflow_ops.product(a, b, dtype)
