"""Our own network: normalised embedding, stacked LSTMs, softmax; the state is every layer's h and c.

Batch normalisation after the embedding is what made the stateful network of the lecture notes learn.
An embedding's output depends on the character alone, so its mean and variance over the corpus follow
from how often each character occurs: they are computed exactly, from the table, instead of being
estimated from each batch. Training and inference then normalise alike, and the result folds into the
embedding when the model is saved.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.config import NetworkConfig
from models.lstm import FastLSTM

_EPSILON = 1e-3
_SMALL_VOCABULARY = 256
"""Up to this many ids, looking a row up is a product with one-hot rows: then the first layer's input
product is done once for the table instead of once for each character of the batch."""

State = tuple[tuple[tf.Tensor, tf.Tensor], ...]


class StatefulLSTM:
    """The trainable network.

    Args:
        config: its shape.
        frequencies: (V,) float, how often each id occurs in the training text; they sum to 1.
        seed: of the initial weights and the dropout masks.
    """

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
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
        z = self._first_projection(tf.reshape(ids, (-1,)))
        after = []
        hs = None
        for i, layer in enumerate(self._lstms):
            if hs is not None:
                z = layer.project(tf.reshape(hs, (-1, width)))
            hs, h, c = layer.sequence(tf.reshape(z, (t, b, 4 * width)), *state[i])
            hs = self._dropped(hs, seed + tf.constant([0, 1009 * i]))
            after.append((h, c))
        dense = self._dense
        flat = tf.matmul(tf.reshape(hs, (-1, width)), tf.convert_to_tensor(dense.kernel))
        return tf.reshape(flat + tf.convert_to_tensor(dense.bias), (t, b, -1)), tuple(after)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names that `models.runtime.graph` reads, normalisation folded in."""
        found = {"embedding": self._normalized_table().numpy()}
        for i, layer in enumerate(self._lstms):
            found[f"lstm_{i}/kernel"] = layer.cell.kernel.numpy()
            found[f"lstm_{i}/recurrent"] = layer.cell.recurrent_kernel.numpy()
            found[f"lstm_{i}/bias"] = layer.cell.bias.numpy()
        found["dense/kernel"] = self._dense.kernel.numpy()
        found["dense/bias"] = self._dense.bias.numpy()
        return found

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
        dense = keras.layers.Dense(self.vocabulary_size, name="dense")
        model = keras.Model(inputs, [dense(x), *outputs], name="stateful_lstm")
        copies += [(model.get_layer("embedding"), table.get_weights()), (dense, self._dense.get_weights())]
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

    def _first_projection(self, flat: tf.Tensor) -> tf.Tensor:
        """Return the first layer's projected inputs (N, 4H) for ids (N,)."""
        table = self._normalized_table()
        if self.vocabulary_size <= _SMALL_VOCABULARY:
            return tf.matmul(tf.one_hot(flat, self.vocabulary_size), self._lstms[0].project(table))
        return self._lstms[0].project(_rows_of(table, flat))

    def _dropped(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Drop outputs by one mask a row and window (variational dropout, Gal and Ghahramani 2016)."""
        rate = self.config.dropout
        if not rate:
            return hs
        kept = tf.random.stateless_uniform((1, *hs.shape[1:]), seed) >= rate
        return hs * tf.cast(kept, tf.float32) / (1 - rate)


@tf.custom_gradient
def _rows_of(table: tf.Tensor, ids: tf.Tensor) -> Any:
    """Gather rows; the gradient is a dense sum by segment, which XLA compiles well."""

    def gradient(d_rows: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(d_rows, ids, table.shape[0]), None

    return tf.gather(table, ids), gradient
