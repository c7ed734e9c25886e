"""What the networks of the first half of the notes share: each prediction sees a window of C characters.

All of them are one recurrence over the window, and differ in the cell:

    h = nothing
    for each character of the window:  h = cell(P[character], h)
    logits of the next character = h Wy + by

P (V, H) is what the input's weights make of each character: a small table, worked out once for all windows.
Id 0 is passed over: h stays as it was. That is how a text shorter than the window is read, whose window
begins with zeros, and it makes an unknown character count for nothing.

The state before a window of text is the C - 1 ids before it, as float32, zeros where there is nothing. So
these networks complete and score through the same runtime as those that remember.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architectures.lazy import keras, tf
from models.architectures.spec import Weights
from models.architectures.table import rows_of
from models.config import NetworkConfig

_FRESH = 1 / 64
"""Share of the rows of a window that are read as if the text began there: else the network would never learn
to predict from less than a whole window, and every line that is scored alone begins so."""


class WindowNetwork(ABC):
    """A network whose state is its last characters. Subclasses add the layers and the cell.

    Args:
        config: its shape; `context` is C.
        frequencies: (V,), of which only the length matters here.
        seed: of the initial weights.
    """

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
        assert config.context
        self.config, self.context = config, config.context
        self.vocabulary_size = v = len(frequencies)
        keras.utils.set_random_seed(seed)
        self.layers: list[Any] = []
        self._build()
        self._dense = self._add(keras.layers.Dense(v, name="dense"), config.units)

    @abstractmethod
    def _build(self) -> None:
        """Make the layers before the last one, by `_add`."""

    @abstractmethod
    def _table(self) -> tf.Tensor:
        """Return P (V, H)."""

    @abstractmethod
    def _cell(self, x: tf.Tensor, h: tf.Tensor, begun: tf.Tensor) -> tf.Tensor:
        """Return h (N, H) after one character: x (N, H) its row of P, begun (N, 1) 1 where h is something."""

    def _add(self, layer: Any, width: int | None) -> Any:
        layer.build((None, None, width) if width else (None, None))
        self.layers.append(layer)
        return layer

    @property
    def variables(self) -> list[Any]:
        """All trainable variables, in a fixed order."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]

    def initial_state(self, rows: int) -> tf.Tensor:
        """Return zeros (B, C - 1): nothing before."""
        return tf.zeros((rows, self.context - 1))

    def logits(self, ids: tf.Tensor, state: tf.Tensor, *, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Predict after each of ids (T, B), from it and the C - 1 characters before it.

        A few rows, drawn by `seed`, are read as the beginning of a text.

        Returns:
            (T, B, V) logits, and the last ids (B, C - 1) as they are.
        """
        t, b = ids.shape
        kept = tf.cast(tf.random.stateless_uniform((b, 1), seed) >= _FRESH, tf.float32)
        text = tf.concat([tf.cast(tf.transpose(state * kept), tf.int32), ids], 0)  # (C - 1 + T, B)
        after = tf.concat([tf.cast(tf.transpose(state), tf.int32), ids], 0)[1 - self.context :]
        x = tf.reshape(rows_of(self._table(), tf.reshape(text, (-1,))), (*text.shape, -1))
        h = tf.zeros((t * b, self.config.units))
        begun = tf.zeros((t * b, 1))
        for j in range(self.context):  # the j-th character of all T * B windows at once
            known = tf.reshape(tf.cast(text[j : j + t] != 0, tf.float32), (-1, 1))
            new = self._cell(tf.reshape(x[j : j + t], (t * b, -1)), h, begun)
            h = known * new + (1 - known) * h
            begun = tf.maximum(begun, known)
        return self._predicted(h, t, b), tf.cast(tf.transpose(after), tf.float32)

    def _predicted(self, h: tf.Tensor, t: int, b: int) -> tf.Tensor:
        flat = tf.matmul(h, tf.convert_to_tensor(self._dense.kernel)) + tf.convert_to_tensor(self._dense.bias)
        return tf.reshape(flat, (t, b, -1))

    def weights(self) -> Weights:
        """Return the weights by the names that `models.architectures.onnx_window_graph` reads."""
        return {
            "table": np.asarray(self._table()),
            "dense/kernel": self._dense.kernel.numpy(),
            "dense/bias": self._dense.bias.numpy(),
        }

    @abstractmethod
    def keras_model(self) -> keras.Model:
        """Return the notes' network, of stock layers with copies of the weights: (B, C) ids -> logits."""


def graph(config: NetworkConfig, weights: Weights) -> bytes:
    """Return the ONNX graph."""
    from models.architectures.onnx_window_graph import window_graph  # needs onnx, which the API does not have

    assert config.context
    return window_graph(weights, context=config.context)


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many numbers training keeps for each character: hidden units of each step, and logits."""
    assert config.context
    return config.context * 6 * config.units + 4 * vocabulary_size
