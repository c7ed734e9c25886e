"""The notes' second network: the same recurrence over the eight characters before, written by hand.

Green arrow: a character's embedding through a dense layer with relu. Orange arrow: the hidden units through a
dense layer with tanh. The two are added. Blue arrow: the sum through a dense layer to the logits. The same
three layers at every character: that is what makes the network recurrent.
"""

from __future__ import annotations

from models.architectures.lazy import keras, tf
from models.architectures.spec import Architecture, Weights
from models.architectures.window import WindowNetwork, activation_floats_per_character, graph
from models.config import NetworkConfig, TrainingConfig


class NthChar(WindowNetwork):
    """An input layer, a hidden-to-hidden layer and an output layer, used for every character of a window."""

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
        # An orthogonal matrix passes on all it is given, as the identity of the notes does, but mixed, so
        # the order of the characters counts from the start: it learns faster.
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

    def _cell(self, x: tf.Tensor, h: tf.Tensor, begun: tf.Tensor) -> tf.Tensor:
        layer = self._hidden
        passed_on = tf.matmul(h, tf.convert_to_tensor(layer.kernel)) + tf.convert_to_tensor(layer.bias)
        return x + begun * tf.tanh(passed_on)

    def weights(self) -> Weights:
        """Return the weights by the names that `models.architectures.onnx_window_graph` reads."""
        layer = self._hidden
        return super().weights() | {"hidden/kernel": layer.kernel.numpy(), "hidden/bias": layer.bias.numpy()}

    def keras_model(self) -> keras.Model:
        """Return the notes' network in Keras's functional API: C inputs (B, 1) of ids -> logits (B, V)."""
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


ARCHITECTURE = Architecture(
    description="The character after the last eight, by three shared dense layers applied to each of them in"
    " turn.",
    network=NetworkConfig(architecture="nth_char", units=256, embedding=42, context=8),
    training=TrainingConfig(rows=32, window=8, learning_rate=2e-3, weight_decay=0.0),
    network_options=("units", "embedding", "context"),
    training_options=("rows", "window", "learning_rate", "weight_decay", "clip_norm"),
    build=NthChar,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    notes_nats=1.80,
    notes_measure="training loss",
)
