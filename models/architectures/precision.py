"""Matrix products in mixed precision; everything else stays float32."""

from __future__ import annotations

from typing import Any

from nextchar.models.architectures.lazy import tf


def product(a: tf.Tensor, b: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Return the matrix product as float32, computed in `dtype`.

    `dtype` is a Keras layer's `compute_dtype`: float32 unless the layer has a mixed dtype policy.
    """
    return tf.cast(tf.matmul(tf.cast(a, dtype), tf.cast(b, dtype)), tf.float32)
