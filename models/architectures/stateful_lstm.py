"""The default network: normalized embedding, stacked LSTMs, softmax; the state is the h and c of each layer.

The stateful network of the lecture notes learned only with batch normalization after the embedding. An
embedding depends on the character alone, so its mean and variance over the corpus follow from the character
frequencies. They are computed exactly from the table rather than estimated from batches, are the same in
training and inference, and are folded into the embedding of a saved model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.lazy import keras, lookup, product, tf
from nextchar.models.architectures.spec import TRAINING_OPTIONS, Architecture, Weights
from nextchar.models.config import PRESETS, NetworkConfig, TrainingConfig
from nextchar.models.kernels.lstm_weights import with_input_gate, without_input_gate

_EPSILON = 1e-3

State = tuple[tuple[Any, Any], ...]  # h and c, (B, H) each, of every layer


class StatefulLSTM:
    """The network in Keras, whose LSTMs use cuDNN on a GPU; on CPUs `KernelLSTM` is trained instead.

    Args:
        config: its shape.
        frequencies: (V,) float, relative frequency of each id in the training text.
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
            layer = keras.layers.LSTM(
                config.units, return_sequences=True, return_state=True, name=f"lstm_{i}"
            )
            layer.build((None, None, width))
            self._lstms.append(layer)
            width = config.units
            if config.coupled_gates:
                for variable in layer.trainable_variables:
                    variable.assign(with_input_gate(without_input_gate(variable.numpy())))
        self._dense = keras.layers.Dense(v, name="dense")
        self._dense.build((None, None, width))
        self._dropout: Any = tf.Variable(0.0, trainable=False) if config.dropout is None else config.dropout

    @property
    def variables(self) -> list[keras.Variable]:
        """All trainable variables, in a fixed order."""
        layers = [self._embedding, self._normalization, *self._lstms, self._dense]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def tied(self, gradients: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Return gradients of `variables` under which coupled gates stay coupled, and their global norm.

        The weights of an input gate are those of the forget gate, negated. With gradients that are negated,
        too, AdamW keeps them so: its steps are odd functions of the gradients and the weights. In the norm,
        which is for clipping, both count once.
        """
        if not self.config.coupled_gates:
            return gradients, tf.linalg.global_norm(gradients)
        lstms = {id(variable) for layer in self._lstms for variable in layer.trainable_variables}
        tied, counted = [], []
        for variable, gradient in zip(self.variables, gradients, strict=True):
            if id(variable) in lstms:
                into, forget, cell, out = tf.split(gradient, 4, -1)
                tied.append(tf.concat([into - forget, forget - into, cell, out], -1))
                counted += [forget - into, cell, out]
            else:
                tied.append(gradient)
                counted.append(gradient)
        return tied, tf.linalg.global_norm(counted)

    def recurrent(self) -> list[int]:
        """Return the indices in `variables` of the weights (H, 4H) of the LSTMs' outputs before."""
        recurrent = {id(layer.cell.recurrent_kernel) for layer in self._lstms}
        return [i for i, variable in enumerate(self.variables) if id(variable) in recurrent]

    def initial_state(self, rows: int) -> State:
        """Return zeros: a pair (B, H), (B, H) for each layer."""
        zero = tf.zeros((rows, self.config.units))
        return tuple((zero, zero) for _ in range(self.config.layers))

    def logits(self, ids: tf.Tensor, state: State, *, seed: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Run one window in training.

        Args:
            ids: (T, B) int32, static shape.
            state: the state before the window.
            seed: (2,) int32, the seed of this window's dropout masks.

        Returns:
            (T, B, V) logits of the next character at each step, and the state after the window.
        """
        t, b = ids.shape
        width = self.config.units
        after = []
        hs = tf.reshape(lookup(self._normalized_table(), tf.reshape(ids, (-1,))), (t, b, -1))
        for i, layer in enumerate(self._lstms):
            hs, h, c = _run(layer, hs, *state[i])
            hs = self._dropped(hs, seed + tf.constant([0, 1009 * i]))
            after.append((h, c))
        hs = self._before_dense(hs, seed)
        dense = self._dense
        kernel = tf.convert_to_tensor(dense.kernel)
        flat = product(tf.reshape(hs, (-1, width)), kernel, dense.compute_dtype)
        return tf.reshape(flat + tf.convert_to_tensor(dense.bias), (t, b, -1)), tuple(after)

    def weights(self) -> Weights:
        """Return the weights, named as in `models.architectures.onnx_graph`, normalization folded in."""
        weights = {"embedding": self._normalized_table().numpy()}
        for i, layer in enumerate(self._lstms):
            weights[f"lstm_{i}/kernel"] = layer.cell.kernel.numpy()
            weights[f"lstm_{i}/recurrent"] = layer.cell.recurrent_kernel.numpy()
            weights[f"lstm_{i}/bias"] = layer.cell.bias.numpy()
        weights["dense/kernel"] = self._dense.kernel.numpy()
        weights["dense/bias"] = self._dense.bias.numpy()
        return weights

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate, if the config does not fix it."""
        if self.config.dropout is None:
            self._dropout.assign(rate)

    def load(self, weights: Weights) -> None:
        """Set the weights to those that `weights` returned for another network.

        The normalization by that network's corpus is folded into them. So this network's is set to the
        identity: both compute the same up to rounding.
        """
        self._embedding.embeddings.assign(weights["embedding"])
        mean, variance = self._moments()
        self._normalization.gamma.assign(tf.sqrt(variance + _EPSILON))
        self._normalization.beta.assign(mean)
        for i, layer in enumerate(self._lstms):
            layer.set_weights([weights[f"lstm_{i}/{part}"] for part in ("kernel", "recurrent", "bias")])
        self._dense.set_weights([weights["dense/kernel"], weights["dense/bias"]])

    def keras_model(self) -> keras.Model:
        """Return a model of stock Keras layers with copies of the weights.

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
        p = self._frequencies[:, None]
        mean = tf.reduce_sum(p * table, 0)
        return mean, tf.reduce_sum(p * tf.square(table - mean), 0)

    def _normalized_table(self) -> tf.Tensor:
        mean, variance = self._moments()
        scale = tf.convert_to_tensor(self._normalization.gamma) * tf.math.rsqrt(variance + _EPSILON)
        centered = tf.convert_to_tensor(self._embedding.embeddings) - mean
        return centered * scale + tf.convert_to_tensor(self._normalization.beta)

    def _before_dense(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Return the inputs of the output layer for the LSTMs' outputs (T, B, H)."""
        return hs

    def _stock_head(self, x: Any) -> Any:
        """Return the stock layers' logits for the LSTMs' outputs x, with copies of the weights."""
        dense = keras.layers.Dense(self.vocabulary_size, name="dense")
        logits = dense(x)
        dense.set_weights(self._dense.get_weights())
        return logits

    def _dropped(self, hs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Apply one dropout mask per row and window (variational dropout, Gal and Ghahramani 2016)."""
        if self.config.dropout == 0:
            return hs
        rate = tf.convert_to_tensor(self._dropout)
        kept = tf.random.stateless_uniform((1, *hs.shape[1:]), seed) >= rate
        return hs * (tf.cast(kept, tf.float32) / (1 - rate))


def _run(layer: Any, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run T steps of a Keras LSTM: on a GPU one call of cuDNN, without XLA.

    Args:
        layer: the layer, which may compute in 16 bits.
        x: (T, B, E) inputs.
        h: (B, H) the output before the first step.
        c: (B, H) the cell before the first step.

    Returns:
        All outputs (T, B, H), and the state (B, H), (B, H) after the last step, float32.
    """
    hs, h, c = layer(tf.transpose(x, (1, 0, 2)), initial_state=[h, c], training=True)
    return (tf.cast(tf.transpose(hs, (1, 0, 2)), tf.float32), tf.cast(h, tf.float32), tf.cast(c, tf.float32))


def graph(_: NetworkConfig, weights: Weights) -> bytes:
    """Return the ONNX graph."""
    from nextchar.models.architectures.onnx_graph import (
        stateful_lstm_graph,  # imports onnx, which the API lacks
    )

    return stateful_lstm_graph(weights)


def parameters(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    assert config.embedding
    h, width = config.units, config.embedding
    count = vocabulary_size * width + 4 * width  # embedding, batch normalization
    for _ in range(config.layers):
        count += (3 if config.coupled_gates else 4) * h * (width + h + 1)
        width = h
    return count + (h + 1) * vocabulary_size


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many floats training keeps per character of a window.

    Per layer inputs, gates, cells and the gradients of inputs and gates, packed copies included; logits.
    """
    return (config.layers * (13 if config.coupled_gates else 15) + 3) * config.units + 5 * vocabulary_size


STATEFUL_LSTM = Architecture(
    description="The default: stacked stateful LSTMs over a normalized embedding, in four presets.",
    network=PRESETS["small"][0],
    training=PRESETS["small"][1],
    network_options=("layers", "units", "embedding", "dropout", "coupled_gates"),
    training_options=(*TRAINING_OPTIONS, "preconditioning", "early_stopping"),
    build=StatefulLSTM,
    build_for_kernels=KernelLSTM,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    can_load_weights=True,
)

# The first stateful network of the lecture notes, in their sizes. There neither a stateful RNN nor a stateful
# LSTM learned without the batch normalization.
STATEFUL_LSTM_LESSON = replace(
    STATEFUL_LSTM,
    description="A stateful LSTM over a batch-normalized embedding, in windows of 8.",
    network=NetworkConfig(architecture="stateful_lstm_lesson", units=256, embedding=42),
    training=TrainingConfig(rows=32, window=8, learning_rate=5e-3, weight_decay=0.01),
    network_options=("units", "embedding", "dropout"),
    notes_nats=1.69,
    notes_measure="training loss after 12 epochs",
)
