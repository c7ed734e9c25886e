"""The last two networks of the lecture notes: the RNN of `onehot_rnn` without layers, and without TensorFlow.

`scan_rnn`, in Theano there: five weights, a step function, `tf.scan` over characters, gradients by a tape,
and plain stochastic gradient descent on one window at a time. `numpy_rnn`: the same in NumPy, with gradients
by hand.

    h[t] = relu(Wx[x[t]] + h[t-1] Wh + bh)      y[t] = h[t] Wy + by
    loss = mean over t of -log softmax(y[t])[target[t]]

Backward, from the last step to the first, with d for the derivative of the loss:

    dy[t] = (softmax(y[t]) - onehot(target[t])) / (T B)
    dh[t] = dy[t] Wy' + dz[t+1] Wh'             from this step's prediction and from the next step
    dz[t] = dh[t] where h[t] > 0                through the relu

An unknown character, id 0, is skipped: h[t] = h[t-1], dz[t] = 0, and dh[t] is passed on to h[t-1] as it is.

The gradient of a weight is the sum over t of its input times the gradient of its output. The tests compare
each with TensorFlow's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import simple_rnn
from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.spec import Floats, Parameter, Weights
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


def forward(w: dict[str, Floats], ids: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Read ids (T, B) from a zero state: return the hidden units (T, B, H) and the logits (T, B, V)."""
    hs = w["Wx"][ids] + w["bh"]  # a row of Wx is the product of a one-hot character with Wx
    known = (ids != 0)[..., None]  # (T, B, 1)
    h = np.zeros_like(hs[0])
    for t in range(len(ids)):
        h = np.where(known[t], np.maximum(hs[t] + h @ w["Wh"], 0), h)
        hs[t] = h
    return hs, hs @ w["Wy"] + w["by"]


def backward(
    w: dict[str, Floats], ids: NDArray[np.int32], targets: NDArray[np.int32]
) -> tuple[float, dict[str, Floats]]:
    """Return the mean loss in nats per character of a window (T, B), and each weight's gradient."""
    hs, logits = forward(w, ids)
    T, B, _ = logits.shape
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    target_indices = (*np.indices((T, B)), targets)
    loss = float(-np.log(p[target_indices]).mean())

    dy = p  # (T, B, V), in place
    dy[target_indices] -= 1
    dy /= T * B
    dhs = dy @ w["Wy"].T
    known = (ids != 0)[..., None]
    dz = np.empty_like(hs)
    from_next = np.zeros_like(hs[0])
    for t in reversed(range(T)):
        dh = dhs[t] + from_next
        dz[t] = dh * (known[t] & (hs[t] > 0))
        from_next = np.where(known[t], dz[t] @ w["Wh"].T, dh)

    dWx = np.zeros_like(w["Wx"])
    np.add.at(dWx, ids, dz)
    before = np.concatenate([np.zeros_like(hs[:1]), hs[:-1]])
    return loss, {
        "Wx": dWx,
        "Wh": np.einsum("tbi,tbj->ij", before, dz, optimize=True),
        "bh": dz.sum((0, 1)),
        "Wy": np.einsum("tbi,tbj->ij", hs, dy, optimize=True),
        "by": dy.sum((0, 1)),
    }


class NumpyRNN(ScanRNN):
    """The trainable network; `arrays` are its weights."""

    def __init__(self, config: NetworkConfig, frequencies: Floats, *, seed: int) -> None:
        self.config = config
        self.vocabulary_size = v = len(frequencies)
        self.arrays: dict[str, Floats] = dict(initial_weights(v, config.units, seed=seed))

    @property
    def variables(self) -> list[Parameter]:
        """Wx, Wh, bh, Wy, by."""
        return [Parameter(array) for array in self.arrays.values()]

    def logits(self, ids: NDArray[np.int32], state: tuple[()], *, seed: Any) -> tuple[Floats, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        return forward(self.arrays, np.asarray(ids))[1], state


class NumpyStep:
    """Stochastic gradient descent on a NumpyRNN; its only state is the weights."""

    def __init__(self, network: NumpyRNN, training: TrainingConfig, *, rows: int) -> None:  # noqa: ARG002
        self._weights = network.arrays
        self._clip_norm = training.clip_norm

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
        loss, gradients = backward(self._weights, inputs, targets)
        norm = float(np.sqrt(sum(np.vdot(g, g) for g in gradients.values())))
        rate = learning_rate * min(1.0, self._clip_norm / max(norm, 1e-12))
        for name, gradient in gradients.items():
            self._weights[name] -= np.float32(rate) * gradient
        return loss

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the weights."""
        return {f"weight/{name}": array.copy() for name, array in self._weights.items()}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set the weights."""
        for name, array in self._weights.items():
            array[...] = arrays[f"weight/{name}"]


NUMPY_RNN = replace(
    SCAN_RNN,
    description="An RNN in NumPy: forward and backward pass by hand, plain SGD.",
    network=NetworkConfig(architecture="numpy_rnn", units=256, embedding=None, context=8),
    build=NumpyRNN,
    step=NumpyStep,
)
