"""The notes' sixth network, which they wrote in Theano: the RNN of `onehot_rnn` from raw operations.

Nothing here knows layers. There are five weights, a function that takes one step, `tf.scan`, which calls
it for each character with what it returned for the one before, a tape that finds the gradients, and plain
stochastic gradient descent, one window at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architectures.lazy import keras, tf
from models.architectures.onehot_rnn import parameters, stock_model
from models.architectures.sequence_rnn import activation_floats_per_character
from models.architectures.spec import Architecture, Weights
from models.architectures.window import graph
from models.config import NetworkConfig, TrainingConfig


def first_weights(vocabulary_size: int, units: int, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return fresh weights: Wx (V, H), Wh (H, H) the identity, bh (H,), Wy (H, V), by (V,).

    Glorot and Bengio's normal distribution: its variance is 2 / (inputs + outputs).
    """
    random = np.random.default_rng(seed)
    spread = np.sqrt(2 / (vocabulary_size + units))
    fresh = {
        "Wx": random.normal(0, spread, (vocabulary_size, units)),
        "Wh": np.eye(units),
        "bh": np.zeros(units),
        "Wy": random.normal(0, spread, (units, vocabulary_size)),
        "by": np.zeros(vocabulary_size),
    }
    return {name: value.astype(np.float32) for name, value in fresh.items()}


class ScanRNN:
    """The five weights, and the network they make."""

    def __init__(self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int) -> None:
        self.config = config
        self.vocabulary_size = len(frequencies)
        fresh = first_weights(self.vocabulary_size, config.units, seed=seed)
        self._weights = {name: tf.Variable(value, name=name) for name, value in fresh.items()}

    @property
    def variables(self) -> list[tf.Variable]:
        """Wx, Wh, bh, Wy, by."""
        return list(self._weights.values())

    def initial_state(self, rows: int) -> tuple[()]:  # noqa: ARG002
        """Return nothing: every window starts from zeros."""
        return ()

    def logits(self, ids: tf.Tensor, state: tuple[()], *, seed: Any) -> tuple[tf.Tensor, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        w, b = self._weights, ids.shape[1]

        def step(before: tuple[tf.Tensor, tf.Tensor], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            h = tf.nn.relu(tf.matmul(x, w["Wx"]) + tf.matmul(before[0], w["Wh"]) + w["bh"])
            return h, tf.matmul(h, w["Wy"]) + w["by"]

        nothing = (tf.zeros((b, self.config.units)), tf.zeros((b, self.vocabulary_size)))
        _, logits = tf.scan(step, tf.one_hot(ids, self.vocabulary_size), initializer=nothing)
        return logits, state

    def weights(self) -> Weights:
        """Return the weights by the names that `models.architectures.onnx_window_graph` reads."""
        return runtime_weights({name: value.numpy() for name, value in self._weights.items()})

    def keras_model(self) -> keras.Model:
        """Return the same network of stock layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return stock_model(*(variable.numpy() for variable in self.variables))


def runtime_weights(w: Weights) -> Weights:
    """Return the five weights by the names that `models.architectures.onnx_window_graph` reads."""
    return {
        "table": w["Wx"] + w["bh"],
        "recurrent/kernel": w["Wh"],
        "dense/kernel": w["Wy"],
        "dense/bias": w["by"],
    }


class ScanStep:
    """Stochastic gradient descent on a ScanRNN; nothing but the weights is kept from step to step."""

    def __init__(self, network: ScanRNN, training: TrainingConfig, *, rows: int) -> None:  # noqa: ARG002
        self._network = network
        self._clip_norm = training.clip_norm
        self._descend = tf.function(self._step)

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
        """Train on one window (T, B); return its mean loss in nats a character."""
        return float(self._descend(tf.constant(inputs), tf.constant(targets), tf.constant(learning_rate)))

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


ARCHITECTURE = Architecture(
    description="The RNN written out: a step function and tf.scan over raw operations, gradients by the tape,"
    " plain SGD.",
    network=NetworkConfig(architecture="scan_rnn", units=256, embedding=None, context=8),
    training=TrainingConfig(rows=1, window=8, learning_rate=0.3, weight_decay=0.0, clip_norm=1.0),
    network_options=("units", "context"),
    training_options=("learning_rate", "clip_norm"),
    build=ScanRNN,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    step=ScanStep,
    reads_windows_alone=True,
    notes_measure="it learns",
)
