"""The third to fifth networks of the lecture notes: `nth_char` with Keras's SimpleRNN, and variants of it.

h = relu(x Wx + b + h U) over the last eight characters. U is initialized to the identity, so the network
starts by summing its inputs and learns what to forget (Le, Jaitly and Hinton, "A Simple Way to Initialize
Recurrent Networks of Rectified Linear Units", 2015).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import nth_char
from nextchar.models.architectures.lazy import keras, lookup, tf
from nextchar.models.architectures.spec import Weights
from nextchar.models.architectures.window import WindowNetwork
from nextchar.models.config import NetworkConfig, TrainingConfig

WARMUP_STEPS = 100
"""Adam's first steps change every weight by the full learning rate. Two such steps in the same direction make
a recurrence that starts as the identity, and is applied eight times to positive units, diverge."""


class SimpleRNN(WindowNetwork):
    """An embedding, Keras's SimpleRNN with relu, and a dense layer on its last output."""

    def _build(self) -> None:
        config = self.config
        assert config.embedding
        initial = keras.initializers.RandomNormal(stddev=0.5)
        embedding = keras.layers.Embedding(
            self.vocabulary_size,
            config.embedding,
            embeddings_initializer=initial,
            mask_zero=True,
            name="embedding",
        )
        self._embedding = self._add(embedding, None)
        self._rnn = self._add(recurrent_layer(config.units), config.embedding)

    def _table(self) -> tf.Tensor:
        cell = self._rnn.cell
        table = tf.matmul(tf.convert_to_tensor(self._embedding.embeddings), tf.convert_to_tensor(cell.kernel))
        return table + tf.convert_to_tensor(cell.bias)

    def _cell(self, x: tf.Tensor, h: tf.Tensor, has_begun: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        return tf.nn.relu(x + tf.matmul(h, tf.convert_to_tensor(self._rnn.cell.recurrent_kernel)))

    def weights(self) -> Weights:
        """Return the weights, named as in `nextchar.models.architectures.onnx_graph`."""
        return super().weights() | {"recurrent/kernel": self._rnn.cell.recurrent_kernel.numpy()}

    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers: ids (B, C) -> logits (B, V); id 0 is masked."""
        return self._stock_model(every_step=False)

    def _stock_model(self, *, every_step: bool) -> keras.Model:
        embedding = keras.layers.Embedding(
            self.vocabulary_size, self.config.embedding, mask_zero=True, name="embedding"
        )
        rnn = recurrent_layer(self.config.units, return_sequences=every_step)
        dense = keras.layers.Dense(self.vocabulary_size, name="dense")
        last = keras.layers.TimeDistributed(dense, name="predictions") if every_step else dense
        ids = keras.Input((None,), dtype="int32", name="ids")
        model = keras.Model(ids, last(rnn(embedding(ids))), name=self.config.architecture)
        for copy, layer in ((embedding, self._embedding), (rnn, self._rnn), (dense, self._dense)):
            copy.set_weights(layer.get_weights())
        return model


def recurrent_layer(units: int, *, return_sequences: bool = False) -> keras.layers.Layer:
    """Return a SimpleRNN with relu, and recurrent weights initialized to the identity."""
    return keras.layers.SimpleRNN(
        units,
        activation="relu",
        recurrent_initializer="identity",
        return_sequences=return_sequences,
        name="rnn",
    )


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    assert config.embedding
    e, h, v = config.embedding, config.units, vocabulary_size
    return v * e + (e + h + 1) * h + (h + 1) * v


SIMPLE_RNN = replace(
    nth_char.NTH_CHAR,
    description="Keras's SimpleRNN over the last eight characters, initialized to the identity.",
    network=NetworkConfig(architecture="simple_rnn", units=256, embedding=42, context=8),
    training=TrainingConfig(rows=32, window=8, learning_rate=6e-3, weight_decay=0.0),
    build=SimpleRNN,
    parameters=parameters,
    warmup_steps=WARMUP_STEPS,
    notes_nats=1.64,
)


class SequenceRNN(SimpleRNN):
    """A SimpleRNN that predicts after every character.

    A window of eight characters has eight targets instead of one, and is read from a zero state, independent
    of other windows. So in training a prediction sees one to eight characters; in inference always the last
    eight, as in the figure of the notes.
    """

    def initial_state(self, rows: int) -> tuple[()]:  # noqa: ARG002
        """Return (): every window starts from zeros."""
        return ()

    def logits(self, ids: tf.Tensor, state: tuple[()], *, seed: tf.Tensor) -> tuple[tf.Tensor, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        t, b = ids.shape
        x = tf.reshape(lookup(self._table(), tf.reshape(ids, (-1,))), (t, b, -1))
        known = tf.cast(ids != 0, tf.float32)[..., None]  # (T, B, 1)
        h, has_begun = tf.zeros((b, self.config.units)), tf.zeros((b, 1))
        outputs = []
        for step in range(t):  # T is the network's context, at most 64
            h = known[step] * self._cell(x[step], h, has_begun) + (1 - known[step]) * h
            outputs.append(h)
        return self._output_logits(tf.concat(outputs, 0), t, b), state

    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return self._stock_model(every_step=True)


def _floats_of_every_step(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many floats training keeps per character of a window: hidden units and logits."""
    return 6 * config.units + 4 * vocabulary_size


SEQUENCE_RNN = replace(
    SIMPLE_RNN,
    description="An RNN that predicts after every character of an independent window.",
    network=NetworkConfig(architecture="sequence_rnn", units=256, embedding=42, context=8),
    training_options=("rows", "learning_rate", "weight_decay", "clip_norm"),
    build=SequenceRNN,
    activation_floats_per_character=_floats_of_every_step,
    has_independent_windows=True,
    notes_nats=1.75,
    notes_measure="training loss of the eighth character",
)


class OneHotRNN(SequenceRNN):
    """A SimpleRNN over one-hot characters instead of an embedding.

    A one-hot character times the input weights Wx is a row of Wx, which replaces the product of an embedding
    with Wx. The two networks can compute the same functions.
    """

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


def _onehot_parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    h, v = config.units, vocabulary_size
    return (v + h + 1) * h + (h + 1) * v


ONEHOT_RNN = replace(
    SEQUENCE_RNN,
    description="As sequence_rnn, with one-hot characters instead of an embedding.",
    network=NetworkConfig(architecture="onehot_rnn", units=256, embedding=None, context=8),
    network_options=("units", "context"),
    build=OneHotRNN,
    parameters=_onehot_parameters,
    notes_measure="the same answer as sequence_rnn",
)
