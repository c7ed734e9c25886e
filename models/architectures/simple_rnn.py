"""The third network of the lecture notes: `nth_char` with Keras's SimpleRNN.

h = relu(x Wx + b + h U) over the last eight characters. U is initialized to the identity, so the network
starts by summing its inputs and learns what to forget (Le, Jaitly and Hinton, "A Simple Way to Initialize
Recurrent Networks of Rectified Linear Units", 2015).
"""

from __future__ import annotations

from dataclasses import replace

from nextchar.models.architectures import nth_char
from nextchar.models.architectures.lazy import keras, tf
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
        """Return the weights, named as in `nextchar.models.architectures.onnx_window_graph`."""
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


ARCHITECTURE = replace(
    nth_char.ARCHITECTURE,
    description="Keras's SimpleRNN over the last eight characters, initialized to the identity.",
    network=NetworkConfig(architecture="simple_rnn", units=256, embedding=42, context=8),
    training=TrainingConfig(rows=32, window=8, learning_rate=6e-3, weight_decay=0.0),
    build=SimpleRNN,
    parameters=parameters,
    warmup_steps=WARMUP_STEPS,
    notes_nats=1.64,
)
