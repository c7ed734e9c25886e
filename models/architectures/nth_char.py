"""The first two networks of the lecture notes: a recurrence over the last three, or eight, characters.

Green arrow: a character's embedding through a dense layer with relu. Orange arrow: the hidden units through a
dense layer with tanh. The two are added. Blue arrow: the sum through a dense layer to the logits. The layers
are shared by all characters, which makes the network recurrent.
"""

from __future__ import annotations

from dataclasses import replace

from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.spec import Architecture, Weights
from nextchar.models.architectures.window import WindowNetwork, activation_floats_per_character, graph
from nextchar.models.config import NetworkConfig, TrainingConfig


class NthChar(WindowNetwork):
    """An input, a hidden-to-hidden and an output layer, shared by all characters of a window."""

    def _build(self) -> None:
        config = self.config
        assert config.embedding
        initial = keras.initializers.RandomNormal(stddev=0.5)
        embedding = keras.layers.Embedding(
            self.vocabulary_size, config.embedding, embeddings_initializer=initial, name="embedding"
        )
        self._embedding = self._add(embedding, None)
        self._input = self._add(
            keras.layers.Dense(config.units, activation="relu", name="input"), config.embedding
        )
        # An orthogonal matrix preserves norms, as the identity of the notes does, but also mixes the units:
        # the order of the characters matters from the start, and training is faster.
        self._hidden = self._add(
            keras.layers.Dense(
                config.units, activation="tanh", kernel_initializer="orthogonal", name="hidden"
            ),
            config.units,
        )

    def _table(self) -> tf.Tensor:
        layer = self._input
        projected = tf.matmul(
            tf.convert_to_tensor(self._embedding.embeddings), tf.convert_to_tensor(layer.kernel)
        )
        return tf.nn.relu(projected + tf.convert_to_tensor(layer.bias))

    def _cell(self, x: tf.Tensor, h: tf.Tensor, has_begun: tf.Tensor) -> tf.Tensor:
        layer = self._hidden
        hidden = tf.matmul(h, tf.convert_to_tensor(layer.kernel)) + tf.convert_to_tensor(layer.bias)
        return x + has_begun * tf.tanh(hidden)

    def weights(self) -> Weights:
        """Return the weights, named as in `nextchar.models.architectures.onnx_graph`."""
        layer = self._hidden
        return super().weights() | {"hidden/kernel": layer.kernel.numpy(), "hidden/bias": layer.bias.numpy()}

    def keras_model(self) -> keras.Model:
        """Return the network in Keras's functional API: C inputs (B, 1) of ids -> logits (B, V)."""
        stock = {layer.name: layer.__class__.from_config(layer.get_config()) for layer in self.layers}
        characters = [keras.Input((1,), dtype="int32", name=f"character_{i}") for i in range(self.context)]
        flat = keras.layers.Flatten()
        h = None
        for character in characters:
            x = stock["input"](flat(stock["embedding"](character)))
            h = x if h is None else keras.layers.Add()([x, stock["hidden"](h)])
        model = keras.Model(characters, stock["dense"](h), name=self.config.architecture)
        for layer in self.layers:
            stock[layer.name].set_weights(layer.get_weights())
        return model


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    assert config.embedding
    e, h, v = config.embedding, config.units, vocabulary_size
    return v * e + (e + 1) * h + (h + 1) * h + (h + 1) * v


NTH_CHAR = Architecture(
    description="Predicts from the last eight characters by three dense layers that they share.",
    network=NetworkConfig(architecture="nth_char", units=256, embedding=42, context=8),
    training=TrainingConfig(rows=32, window=8, learning_rate=2e-3, weight_decay=0.0),
    network_options=("units", "embedding", "context"),
    build=NthChar,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    notes_nats=1.80,
    notes_measure="training loss",
)

THREE_CHAR = replace(
    NTH_CHAR,
    description="Predicts from the last three characters by three dense layers that they share.",
    network=NetworkConfig(architecture="three_char", units=256, embedding=42, context=3),
    network_options=("units", "embedding"),
    notes_nats=2.0,
    notes_measure="training loss, about",
)
