"""Embedding lookup with a gradient that XLA compiles to fast code."""

from __future__ import annotations

from typing import Any

from nextchar.models.architectures.lazy import tf

SMALL_TABLE = 256
"""Up to this many rows a product with one-hot rows is faster than gathering."""


def lookup(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Return the rows (N, H) of `table` (V, H) at `ids` (N,)."""
    if table.shape[0] <= SMALL_TABLE:
        return tf.matmul(tf.one_hot(ids, table.shape[0]), table)
    return _gathered(table, ids)


def _gathered(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Gather rows; the gradient is a dense segment sum."""

    @tf.custom_gradient
    def gathered(rows: tf.Tensor) -> Any:
        return tf.gather(rows, ids), lambda d: tf.math.unsorted_segment_sum(d, ids, table.shape[0])

    return gathered(table)
