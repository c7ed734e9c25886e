"""Lazy `keras` and `tf`, imported on first use, and operations on tensors that several networks share.

The API reads the options of architectures without TensorFlow, so their modules import both from here.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Lazy:
    """A module that is imported when one of its attributes is first accessed.

    Tools such as pytest look up names like `__test__` and `_mock_name` in all that a module has. Names that
    begin with an underscore import nothing: they are missing.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


keras: Any = _Lazy("keras")
tf: Any = _Lazy("tensorflow")


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


def product(a: tf.Tensor, b: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Return the matrix product as float32, computed in `dtype`.

    `dtype` is a Keras layer's `compute_dtype`: float32 unless the layer has a mixed dtype policy.
    """
    return tf.cast(tf.matmul(tf.cast(a, dtype), tf.cast(b, dtype)), tf.float32)
