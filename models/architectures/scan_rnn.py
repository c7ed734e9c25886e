"""The sixth network of the lecture notes, in Theano there: the RNN of `onehot_rnn` without layers.

Five weights, a step function, `tf.scan` over the characters, gradients by a tape, and plain stochastic
gradient descent on one window at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import simple_rnn
from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.spec import Weights
from nextchar.models.config import NetworkConfig, TrainingConfig


def initial_weights(vocabulary_size: int, units: int, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return random weights: Wx (V, H), Wh (H, H) the identity, bh (H,), Wy (H, V), by (V,).

    Normal with variance 2 / (inputs + outputs) (Glorot and Bengio 2010).
    """
    random = np.random.default_rng(seed)
    sigma = np.sqrt(2 / (vocabulary_size + units))
    weights = {
        "Wx": random.normal(0, sigma, (vocabulary_size, units)),
        "Wh": np.eye(units),
        "bh": np.zeros(units),
        "Wy": random.normal(0, sigma, (units, vocabulary_size)),
        "by": np.zeros(vocabulary_size),
    }
    return {name: value.astype(np.float32) for name, value in weights.items()}


class ScanRNN:
    """The trainable network."""

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
        self.config = config
        self.vocabulary_size = len(frequencies)
        weights = initial_weights(self.vocabulary_size, config.units, seed=seed)
        self._weights = {name: tf.Variable(value, name=name) for name, value in weights.items()}

    @property
    def variables(self) -> list[Any]:
        """Wx, Wh, bh, Wy, by."""
        return list(self._weights.values())

    def initial_state(self, rows: int) -> tuple[()]:  # noqa: ARG002
        """Return (): every window starts from zeros."""
        return ()

    def logits(self, ids: tf.Tensor, state: tuple[()], *, seed: Any) -> tuple[tf.Tensor, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        w, b = self._weights, ids.shape[1]

        def step(before: tuple[tf.Tensor, tf.Tensor], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            new = tf.nn.relu(tf.matmul(x, w["Wx"]) + tf.matmul(before[0], w["Wh"]) + w["bh"])
            unknown = x[:, :1]  # (B, 1): 1 for id 0, which is skipped
            h = unknown * before[0] + (1 - unknown) * new
            return h, tf.matmul(h, w["Wy"]) + w["by"]

        zeros = (tf.zeros((b, self.config.units)), tf.zeros((b, self.vocabulary_size)))
        _, logits = tf.scan(step, tf.one_hot(ids, self.vocabulary_size), initializer=zeros)
        return logits, state

    def weights(self) -> Weights:
        """Return the weights, named as in `nextchar.models.architectures.onnx_graph`."""
        wx, wh, bh, wy, by = self._float32()
        return {"table": wx + bh, "recurrent/kernel": wh, "dense/kernel": wy, "dense/bias": by}

    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return simple_rnn.stock_model(*self._float32())

    def _float32(self) -> list[NDArray[np.float32]]:
        return [variable.numpy().astype(np.float32) for variable in self.variables]


class ScanStep:
    """Stochastic gradient descent on a ScanRNN; its only state is the weights."""

    def __init__(self, network: ScanRNN, training: TrainingConfig, *, rows: int) -> None:  # noqa: ARG002
        self._network = network
        self._clip_norm = training.clip_norm
        self._train = tf.function(self._step)

    def reset_states(self, rows: slice = slice(None)) -> None:
        """Do nothing: every window starts from zeros."""

    def run(
        self,
        inputs: NDArray[np.int32],
        targets: NDArray[np.int32],
        *,
        step: int,  # noqa: ARG002
        learning_rate: float,
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats per character."""
        return float(self._train(tf.constant(inputs), tf.constant(targets), tf.constant(learning_rate)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the weights."""
        return {f"weight/{i}": v.numpy() for i, v in enumerate(self._network.variables)}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set the weights."""
        for i, variable in enumerate(self._network.variables):
            variable.assign(arrays[f"weight/{i}"])

    def _step(self, x: tf.Tensor, y: tf.Tensor, learning_rate: tf.Tensor) -> tf.Tensor:
        weights = self._network.variables
        with tf.GradientTape() as tape:
            logits, _ = self._network.logits(x, (), seed=None)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), self._clip_norm)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(learning_rate * gradient)
        return loss


SCAN_RNN = replace(
    simple_rnn.ONEHOT_RNN,
    description="An RNN without Keras layers: a step function, tf.scan and plain SGD.",
    network=NetworkConfig(architecture="scan_rnn", units=256, embedding=None, context=8),
    training=TrainingConfig(rows=1, window=8, learning_rate=0.3, weight_decay=0.0, clip_norm=1.0),
    training_options=("learning_rate", "clip_norm"),
    build=ScanRNN,
    step=ScanStep,
    warmup_steps=0,
    notes_nats=None,
    notes_measure="it learns",
)
