"""The largest network of the lecture notes: two stacked stateful LSTMs with dropout and a hidden dense layer.

    embedding 42, batch-normalized -> LSTM 512 -> dropout -> LSTM 512 -> dropout
    -> dense 512 relu at every step -> dropout -> dense to the logits at every step

It is `stateful_lstm` with two layers and a hidden dense layer. Dropout masks are drawn per row and window.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import stateful_lstm
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.lazy import keras, product, tf
from nextchar.models.architectures.spec import Weights
from nextchar.models.config import NetworkConfig, TrainingConfig


class StackedLSTM(stateful_lstm.StatefulLSTM):
    """Stacked LSTMs with a hidden dense layer before the output."""

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
        super().__init__(config, frequencies, seed=seed)
        self._hidden = keras.layers.Dense(config.units, activation="relu", name="hidden")
        self._hidden.build((None, None, config.units))

    @property
    def variables(self) -> list[Any]:
        """All trainable variables, in a fixed order."""
        return [*super().variables, *self._hidden.trainable_variables]

    def _before_dense(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        layer = self._hidden
        kernel = tf.convert_to_tensor(layer.kernel)
        flat = product(tf.reshape(hs, (-1, self.config.units)), kernel, layer.compute_dtype)
        hidden = tf.reshape(tf.nn.relu(flat + tf.convert_to_tensor(layer.bias)), hs.shape)
        return self._dropped(hidden, seed + tf.constant([0, 1009 * self.config.layers]))

    def weights(self) -> Weights:
        """Return the weights, named as in `models.architectures.onnx_graph`, normalization folded in."""
        layer = self._hidden
        return super().weights() | {"hidden/kernel": layer.kernel.numpy(), "hidden/bias": layer.bias.numpy()}

    def load(self, weights: Weights) -> None:
        """Set the weights to those that `weights` returned for another network."""
        super().load(weights)
        self._hidden.set_weights([weights["hidden/kernel"], weights["hidden/bias"]])

    def _stock_head(self, x: Any) -> Any:
        hidden = keras.layers.Dense(self.config.units, activation="relu", name="hidden")
        x = keras.layers.TimeDistributed(hidden, name="hidden_at_every_step")(x)
        hidden.set_weights(self._hidden.get_weights())
        return super()._stock_head(x)


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    return stateful_lstm.parameters(config, vocabulary_size) + (config.units + 1) * config.units


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many floats training keeps per character of a window."""
    return stateful_lstm.activation_floats_per_character(config, vocabulary_size) + 4 * config.units


STACKED_LSTM_LESSON = replace(
    stateful_lstm.STATEFUL_LSTM,
    description="Two stacked stateful LSTMs of 512 units with dropout, and a dense layer at every step.",
    network=NetworkConfig(architecture="stacked_lstm_lesson", layers=2, units=512, embedding=42, dropout=0.1),
    training=TrainingConfig(rows=32, window=32, learning_rate=5e-3, weight_decay=0.05),
    build=StackedLSTM,
    build_for_kernels=partial(KernelLSTM, has_hidden=True),
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    notes_nats=1.22,
    notes_measure="training loss after a night, with dropout",
)
