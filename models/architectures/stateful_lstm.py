"""Our own network: normalised embedding, stacked LSTMs, softmax; the state is every layer's h and c.

Batch normalisation after the embedding is what made the stateful network of the lecture notes learn.
An embedding's output depends on the character alone, so its mean and variance over the corpus follow
from how often each character occurs: they are computed exactly, from the table, instead of being
estimated from each batch. Training and inference then normalise alike, and the result folds into the
embedding when the model is saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architectures.lazy import keras, tf
from models.architectures.precision import product
from models.architectures.spec import Architecture, Weights
from models.architectures.table import SMALL_TABLE, rows_of
from models.config import PRESETS, NetworkConfig

_EPSILON = 1e-3

State = tuple[tuple[Any, Any], ...]  # h and c, (B, H) each, of every layer


class StatefulLSTM:
    """The trainable network.

    Where TensorFlow sees a GPU the LSTMs run as Keras runs them, by cuDNN; elsewhere by kernels of ours.

    Args:
        config: its shape.
        frequencies: (V,) float, how often each id occurs in the training text; they sum to 1.
        seed: of the initial weights and the dropout masks.
    """

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
        from models.architectures.lstm_layer import (
            FastLSTM,  # a subclass of Keras's layer: it needs Keras to be defined
        )

        self.lstms_by_keras = bool(tf.config.list_logical_devices("GPU"))
        self.config = config
        self.vocabulary_size = v = len(frequencies)
        self._frequencies = tf.constant(frequencies, tf.float32)
        keras.utils.set_random_seed(seed)
        self._embedding = keras.layers.Embedding(v, config.embedding, name="embedding")
        self._embedding.build((None, None))
        self._normalization = keras.layers.BatchNormalization(epsilon=_EPSILON, name="normalization")
        self._normalization.build((None, None, config.embedding))
        self._lstms, width = [], config.embedding
        for i in range(config.layers):
            layer = FastLSTM(config.units, return_sequences=True, return_state=True, name=f"lstm_{i}")
            layer.build((None, None, width))
            self._lstms.append(layer)
            width = config.units
        self._dense = keras.layers.Dense(v, name="dense")
        self._dense.build((None, None, width))
        self._dropout: Any = tf.Variable(0.0, trainable=False) if config.dropout is None else config.dropout

    @property
    def variables(self) -> list[keras.Variable]:
        """All trainable variables, in a fixed order."""
        layers = [self._embedding, self._normalization, *self._lstms, self._dense]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def initial_state(self, rows: int) -> State:
        """Return zeros: a pair (B, H), (B, H) for each layer."""
        zero = tf.zeros((rows, self.config.units))
        return tuple((zero, zero) for _ in range(self.config.layers))

    def logits(self, ids: tf.Tensor, state: State, *, seed: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Run one window in training.

        Args:
            ids: (T, B) int32, shape known when traced.
            state: before the window.
            seed: (2,) int32, of this window's dropout masks.

        Returns:
            (T, B, V) logits of the character after each one, and the state after the window.
        """
        t, b = ids.shape
        width = self.config.units
        after = []
        hs = None
        for i, layer in enumerate(self._lstms):
            if self.lstms_by_keras:
                x = rows_of(self._normalized_table(), tf.reshape(ids, (-1,))) if hs is None else hs
                hs, h, c = layer.by_keras(tf.reshape(x, (t, b, -1)), *state[i])
            else:
                z, places = self._projection(layer, ids, hs)
                hs, h, c = layer.sequence(z, places, *state[i])
            hs = self._dropped(hs, seed + tf.constant([0, 1009 * i]))
            after.append((h, c))
        hs = self._before_dense(hs, seed)
        dense = self._dense
        kernel = tf.convert_to_tensor(dense.kernel)
        flat = product(tf.reshape(hs, (-1, width)), kernel, dense.compute_dtype)
        return tf.reshape(flat + tf.convert_to_tensor(dense.bias), (t, b, -1)), tuple(after)

    def weights(self) -> Weights:
        """Return the weights by names of `models.architectures.onnx_graph`, normalization folded in."""
        found = {"embedding": self._normalized_table().numpy()}
        for i, layer in enumerate(self._lstms):
            found[f"lstm_{i}/kernel"] = layer.cell.kernel.numpy()
            found[f"lstm_{i}/recurrent"] = layer.cell.recurrent_kernel.numpy()
            found[f"lstm_{i}/bias"] = layer.cell.bias.numpy()
        found["dense/kernel"] = self._dense.kernel.numpy()
        found["dense/bias"] = self._dense.bias.numpy()
        return found

    def drop(self, share: float) -> None:
        """Set the share of the LSTMs' outputs that is dropped from now on, if the config leaves it open."""
        if self.config.dropout is None:
            self._dropout.assign(share)

    def load(self, weights: Weights) -> None:
        """Take over the weights that another network's `weights` gave.

        The normalisation of a corpus is folded into those. So it is set to undo itself for this corpus: the
        networks compute the same, but for rounding.
        """
        self._embedding.embeddings.assign(weights["embedding"])
        mean, variance = self._moments()
        self._normalization.gamma.assign(tf.sqrt(variance + _EPSILON))
        self._normalization.beta.assign(mean)
        for i, layer in enumerate(self._lstms):
            layer.set_weights([weights[f"lstm_{i}/{part}"] for part in ("kernel", "recurrent", "bias")])
        self._dense.set_weights([weights["dense/kernel"], weights["dense/bias"]])

    def keras_model(self) -> keras.Model:
        """Return a model of stock layers with copies of the weights.

        Inputs: ids (B, T) int32, then h and c (B, H) of each layer. Outputs: logits (B, T, V), then h
        and c of each layer after the last step.
        """
        width = self.config.units
        ids = keras.Input((None,), dtype="int32", name="ids")
        table, normalization = self._embedding, self._normalization
        x = keras.layers.Embedding(self.vocabulary_size, self.config.embedding, name="embedding")(ids)
        stock = keras.layers.BatchNormalization(epsilon=_EPSILON, name="normalization")
        x = stock(x)
        mean, variance = self._moments()
        copies: list[tuple[Any, list[Any]]] = [
            (stock, [normalization.gamma, normalization.beta, mean, variance])
        ]
        inputs, outputs = [ids], []
        for i, layer in enumerate(self._lstms):
            h, c = (keras.Input((width,), name=f"{letter}_{i}") for letter in "hc")
            lstm = keras.layers.LSTM(width, return_sequences=True, return_state=True, name=f"lstm_{i}")
            x, *after = lstm(x, initial_state=[h, c])
            inputs += [h, c]
            outputs += after
            copies.append((lstm, layer.get_weights()))
        model = keras.Model(inputs, [self._stock_head(x), *outputs], name=self.config.architecture)
        copies += [(model.get_layer("embedding"), table.get_weights())]
        for target, values in copies:
            target.set_weights([np.asarray(value) for value in values])
        return model

    def _moments(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the mean and variance (E,) of the embedding over the training text."""
        table = tf.convert_to_tensor(self._embedding.embeddings)
        share = self._frequencies[:, None]
        mean = tf.reduce_sum(share * table, 0)
        return mean, tf.reduce_sum(share * tf.square(table - mean), 0)

    def _normalized_table(self) -> tf.Tensor:
        mean, variance = self._moments()
        scale = tf.convert_to_tensor(self._normalization.gamma) * tf.math.rsqrt(variance + _EPSILON)
        centred = tf.convert_to_tensor(self._embedding.embeddings) - mean
        return centred * scale + tf.convert_to_tensor(self._normalization.beta)

    def _projection(self, layer: Any, ids: tf.Tensor, hs: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a layer's projected inputs (N, 4H), and which of them comes where, (T, B).

        For the first layer, hs is None, and a small table is projected once instead of once a character.
        """
        if hs is None and self.vocabulary_size <= SMALL_TABLE:
            return layer.project(self._normalized_table()), ids
        if hs is None:
            x = rows_of(self._normalized_table(), tf.reshape(ids, (-1,)))
        else:
            x = tf.reshape(hs, (-1, self.config.units))
        return layer.project(x), tf.reshape(tf.range(x.shape[0]), ids.shape)

    def _before_dense(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Return what the last layer sees of the LSTMs' outputs (T, B, H): here, them."""
        return hs

    def _stock_head(self, x: Any) -> Any:
        """Return the logits of a stock model for the LSTMs' outputs x, with copies of the weights."""
        dense = keras.layers.Dense(self.vocabulary_size, name="dense")
        logits = dense(x)
        dense.set_weights(self._dense.get_weights())
        return logits

    def _dropped(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Drop outputs by one mask a row and window (variational dropout, Gal and Ghahramani 2016)."""
        if self.config.dropout == 0:
            return hs
        rate = tf.convert_to_tensor(self._dropout)
        kept = tf.random.stateless_uniform((1, *hs.shape[1:]), seed) >= rate
        return hs * (tf.cast(kept, tf.float32) / (1 - rate))


def graph(_: NetworkConfig, weights: Weights) -> bytes:
    """Return the ONNX graph."""
    from models.architectures.onnx_graph import stateful_lstm_graph  # needs onnx, which the API does not have

    return stateful_lstm_graph(weights)


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    assert config.embedding
    h, width = config.units, config.embedding
    count = vocabulary_size * width + 4 * width  # embedding, batch normalization
    for _ in range(config.layers):
        count += 4 * h * (width + h + 1)
        width = h
    return count + (h + 1) * vocabulary_size


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many numbers training keeps for each character of a window: gates, states and logits."""
    return config.layers * 12 * config.units + 4 * vocabulary_size


ARCHITECTURE = Architecture(
    description="Ours and the default: stacked stateful LSTMs over a normalised embedding, in four presets.",
    network=PRESETS["small"][0],
    training=PRESETS["small"][1],
    network_options=("layers", "units", "embedding", "dropout"),
    training_options=("rows", "window", "learning_rate", "weight_decay", "clip_norm"),
    build=StatefulLSTM,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    own_kernels=True,
    loads_weights=True,
)
