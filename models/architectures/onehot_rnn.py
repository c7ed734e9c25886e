"""The fifth network of the lecture notes: `sequence_rnn` with one-hot characters instead of an embedding.

A one-hot character times the input weights Wx is a row of Wx, which replaces the product of an embedding with
Wx. The two networks can compute the same functions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import sequence_rnn
from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.simple_rnn import recurrent_layer
from nextchar.models.config import NetworkConfig


class OneHotRNN(sequence_rnn.SequenceRNN):
    """A SimpleRNN over one-hot characters."""

    def _build(self) -> None:
        self._rnn = self._add(recurrent_layer(self.config.units), self.vocabulary_size)

    def _table(self) -> tf.Tensor:
        cell = self._rnn.cell
        return tf.convert_to_tensor(cell.kernel) + tf.convert_to_tensor(cell.bias)

    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return stock_model(*self._rnn.get_weights(), *self._dense.get_weights())


def stock_model(
    input_kernel: NDArray[np.float32],
    recurrent_kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    dense_kernel: NDArray[np.float32],
    dense_bias: NDArray[np.float32],
) -> keras.Model:
    """Return an RNN over one-hot characters in stock Keras layers: ids (B, T) -> logits (B, T, V)."""
    units, v = dense_kernel.shape
    ids = keras.Input((None,), dtype="int32", name="ids")
    one_hot = keras.layers.CategoryEncoding(v, output_mode="one_hot", name="one_hot")(ids)
    known = keras.layers.Masking(name="known")(one_hot[..., 1:])  # id 0 is all zeros, and skipped
    rnn = recurrent_layer(units, return_sequences=True)
    dense = keras.layers.Dense(v, name="dense")
    model = keras.Model(ids, keras.layers.TimeDistributed(dense, name="predictions")(rnn(known)))
    rnn.set_weights([input_kernel[1:], recurrent_kernel, bias])
    dense.set_weights([dense_kernel, dense_bias])
    return model


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    h, v = config.units, vocabulary_size
    return (v + h + 1) * h + (h + 1) * v


ARCHITECTURE = replace(
    sequence_rnn.ARCHITECTURE,
    description="As sequence_rnn, with one-hot characters instead of an embedding.",
    network=NetworkConfig(architecture="onehot_rnn", units=256, embedding=None, context=8),
    network_options=("units", "context"),
    build=OneHotRNN,
    parameters=parameters,
    notes_measure="the same answer as sequence_rnn",
)
