"""The base class of window networks, which predict from the last C characters only.

They are recurrences over a window and differ in the cell:

    h = undefined
    for each character of the window:  h = cell(P[character], h)
    logits of the next character = h Wy + by

P (V, H) is the input layer applied to each character: a small table, computed once for all windows.
Id 0 is skipped: it leaves h unchanged. So a text shorter than the window is padded with zeros in front, and
unknown characters are ignored.

The state is the last C - 1 ids as float32, padded with zeros in front. So inference runs on the same runtime
as that of recurrent networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.lazy import keras, lookup, tf
from nextchar.models.architectures.spec import Weights
from nextchar.models.config import NetworkConfig

_EMPTY_CONTEXT = 1 / 64
"""Fraction of the rows that are read without the characters before the window. Otherwise the network would
never learn to predict from a partial window, with which every scored line starts."""


class WindowNetwork(ABC):
    """A network whose state is its last characters. Subclasses add the layers and the cell.

    Args:
        config: its shape; `context` is C.
        frequencies: (V,); only its length is used.
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
        """Create the layers before the output layer, with `_add`."""

    @abstractmethod
    def _table(self) -> tf.Tensor:
        """Return P (V, H)."""

    @abstractmethod
    def _cell(self, x: tf.Tensor, h: tf.Tensor, has_begun: tf.Tensor) -> tf.Tensor:
        """Return h (N, H) after a character, whose row of P is x (N, H).

        has_begun (N, 1) is 0 where h is undefined and 1 elsewhere.
        """

    def _add(self, layer: Any, width: int | None) -> Any:
        layer.build((None, None, width) if width else (None, None))
        self.layers.append(layer)
        return layer

    @property
    def variables(self) -> list[Any]:
        """All trainable variables, in a fixed order."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]

    def initial_state(self, rows: int) -> tf.Tensor:
        """Return zeros (B, C - 1): an empty context."""
        return tf.zeros((rows, self.context - 1))

    def logits(self, ids: tf.Tensor, state: tf.Tensor, *, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Predict after each of ids (T, B), from it and the C - 1 characters before it.

        Some rows, chosen by `seed`, are read with an empty context.

        Returns:
            (T, B, V) logits, and the last ids (B, C - 1) as the next state.
        """
        t, b = ids.shape
        kept = tf.cast(tf.random.stateless_uniform((b, 1), seed) >= _EMPTY_CONTEXT, tf.float32)
        text = tf.concat([tf.cast(tf.transpose(state * kept), tf.int32), ids], 0)  # (C - 1 + T, B)
        after = tf.concat([tf.cast(tf.transpose(state), tf.int32), ids], 0)[1 - self.context :]
        x = tf.reshape(lookup(self._table(), tf.reshape(text, (-1,))), (*text.shape, -1))
        h = tf.zeros((t * b, self.config.units))
        has_begun = tf.zeros((t * b, 1))
        for j in range(self.context):  # the j-th character of all T * B windows at once
            known = tf.reshape(tf.cast(text[j : j + t] != 0, tf.float32), (-1, 1))
            new = self._cell(tf.reshape(x[j : j + t], (t * b, -1)), h, has_begun)
            h = known * new + (1 - known) * h
            has_begun = tf.maximum(has_begun, known)
        return self._output_logits(h, t, b), tf.cast(tf.transpose(after), tf.float32)

    def _output_logits(self, h: tf.Tensor, t: int, b: int) -> tf.Tensor:
        flat = tf.matmul(h, tf.convert_to_tensor(self._dense.kernel)) + tf.convert_to_tensor(self._dense.bias)
        return tf.reshape(flat, (t, b, -1))

    def weights(self) -> Weights:
        """Return the weights, named as in `nextchar.models.architectures.onnx_graph`."""
        return {
            "table": np.asarray(self._table()),
            "dense/kernel": self._dense.kernel.numpy(),
            "dense/bias": self._dense.bias.numpy(),
        }

    @abstractmethod
    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers with copies of the weights: (B, C) ids -> logits."""


def graph(config: NetworkConfig, weights: Weights) -> bytes:
    """Return the ONNX graph."""
    from nextchar.models.architectures.onnx_graph import window_graph  # imports onnx, which the API lacks

    assert config.context
    return window_graph(weights, context=config.context)


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many floats training keeps per character: hidden units of each step, and logits."""
    assert config.context
    return config.context * 6 * config.units + 4 * vocabulary_size
