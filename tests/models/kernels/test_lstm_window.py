"""Loss and gradients of a training window, compared with TensorFlow's and with each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.lazy import tf
from nextchar.models.kernels.dense_training import average
from nextchar.models.kernels.lstm_weights import (
    EPSILON,
    LSTMShape,
    LSTMWeights,
    with_input_gate,
    without_input_gate,
)
from nextchar.models.kernels.lstm_window import LSTMWindow, State
from nextchar.models.kernels.packed_arrays import HAS_BFLOAT16

T = 5
ROUNDOFF = {"float32": 2**-20, "bfloat16": 2**-6 if HAS_BFLOAT16 else 2**-20}
SHAPES = {
    "one layer": (LSTMShape(layers=1, units=6, embedding=3, vocabulary_size=7), 2),
    "two layers, odd sizes": (LSTMShape(layers=2, units=5, embedding=3, vocabulary_size=9), 3),
    "one row": (LSTMShape(layers=2, units=4, embedding=2, vocabulary_size=5), 1),
    "many characters": (LSTMShape(layers=1, units=7, embedding=3, vocabulary_size=300), 4),
    "a hidden layer": (LSTMShape(layers=2, units=6, embedding=3, vocabulary_size=8, has_hidden=True), 3),
    "coupled gates": (
        LSTMShape(layers=2, units=5, embedding=3, vocabulary_size=9, has_coupled_gates=True),
        3,
    ),
    "coupled gates, many characters": (
        LSTMShape(layers=1, units=7, embedding=3, vocabulary_size=300, has_coupled_gates=True),
        4,
    ),
    "coupled gates, whole panels": (
        LSTMShape(layers=2, units=64, embedding=16, vocabulary_size=64, has_coupled_gates=True),
        16,
    ),
    "whole panels": (LSTMShape(layers=2, units=64, embedding=16, vocabulary_size=64), 16),
}


class Case:
    """A network with random weights, a window of text for it, and what the kernels make of both."""

    def __init__(self, name: str, *, soft: bool = False) -> None:
        self.shape, self.rows = SHAPES[name]
        self.random = np.random.default_rng(4)
        v, size = self.shape.vocabulary_size, (T, self.rows)
        self.weights, self.gradient = LSTMWeights(self.shape), LSTMWeights(self.shape)
        self.weights.flat[:] = self.random.normal(scale=0.3, size=self.weights.flat.size)
        self.frequencies = self.random.dirichlet(np.ones(v)).astype("f")
        self.ids = self.random.integers(0, v, size).astype(np.int32)
        self.targets: np.ndarray = self.random.integers(0, v, size).astype(np.int32)
        if soft:
            self.targets = self.random.dirichlet(np.ones(v), size).astype("f")
        units = (self.rows, self.shape.units)
        self.state: State = [
            (self.random.normal(size=units).astype("f"), self.random.normal(size=units).astype("f"))
            for _ in range(self.shape.layers)
        ]
        self.masks = [
            (self.random.random(units) > 0.3).astype("f") / np.float32(0.7)
            for _ in range(self.shape.layers + 1)
        ]

    def window(self, dtype: str = "float32") -> LSTMWindow:
        return LSTMWindow(self.shape, self.frequencies, rows=self.rows, window=T, dtype=dtype)

    def run(self, window: LSTMWindow) -> tuple[float, dict[str, np.ndarray], State]:
        """Return the loss, gradients and state."""
        state = [(h.copy(), c.copy()) for h, c in self.state]
        loss = window.run(self.weights, self.ids, self.targets, state, self.gradient, self.masks)
        return loss, {name: array.copy() for name, array in self.gradient.arrays.items()}, state

    def expected(self) -> tuple[float, dict[str, np.ndarray], State]:
        """Return what TensorFlow computes."""
        weights = {name: tf.constant(array) for name, array in self.weights.arrays.items()}
        with tf.GradientTape() as tape:
            tape.watch(list(weights.values()))
            logits, state = self._logits(weights)
            if self.targets.ndim == 3:
                losses = tf.nn.softmax_cross_entropy_with_logits(self.targets, logits)
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.targets, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, weights)
        return float(loss), {n: tf.convert_to_tensor(g).numpy() for n, g in gradients.items()}, state

    def _logits(self, w: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Any]:
        p = self.frequencies[:, None]
        mean = tf.reduce_sum(p * w["embedding"], 0)
        variance = tf.reduce_sum(p * tf.square(w["embedding"] - mean), 0)
        table = (w["embedding"] - mean) / tf.sqrt(variance + EPSILON) * w["gamma"] + w["beta"]
        xs = [tf.gather(table, ids) for ids in self.ids]
        after = []
        for i, state in enumerate(self.state):
            h, c = map(tf.constant, state)
            for t in range(T):
                z = xs[t] @ w[f"lstm_{i}/kernel"] + h @ w[f"lstm_{i}/recurrent"] + w[f"lstm_{i}/bias"]
                *into, forget, cell, out = tf.split(z, self.shape.gate_count, 1)
                input_gate = tf.sigmoid(into[0]) if into else 1 - tf.sigmoid(forget)
                c = tf.sigmoid(forget) * c + input_gate * tf.tanh(cell)
                h = tf.sigmoid(out) * tf.tanh(c)
                xs[t] = h * self.masks[i]
            after.append((h, c))
        hs = tf.stack(xs)
        if self.shape.has_hidden:
            hs = tf.nn.relu(hs @ w["hidden/kernel"] + w["hidden/bias"]) * self.masks[-1]
        return hs @ w["dense/kernel"] + w["dense/bias"], after


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "distributions"])
@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("name", list(SHAPES))
def test_loss_gradients_and_state_equal_those_of_tensorflow(name: str, dtype: str, soft: bool) -> None:
    case = Case(name, soft=soft)
    loss, gradients, state = case.run(case.window(dtype))
    expected_loss, expected_gradients, expected_state = case.expected()
    assert loss == pytest.approx(expected_loss, abs=ROUNDOFF[dtype])
    for part, expected in zip(state, expected_state, strict=True):
        np.testing.assert_allclose(part, expected, atol=4 * ROUNDOFF[dtype])
    assert gradients.keys() == expected_gradients.keys()
    for weight, expected in expected_gradients.items():
        tolerance = 4 * ROUNDOFF[dtype] * np.abs(expected).max()
        np.testing.assert_allclose(gradients[weight], expected, atol=tolerance, err_msg=weight)


def test_an_lstm_with_the_negated_forget_gate_computes_what_coupled_gates_do() -> None:
    case = Case("coupled gates")
    loss, _, state = case.run(case.window())
    stock = replace(case.shape, has_coupled_gates=False)
    weights = LSTMWeights(stock)
    for name, array in case.weights.arrays.items():
        weights[name][:] = with_input_gate(array) if name.startswith("lstm") else array
        if name.startswith("lstm"):
            np.testing.assert_array_equal(without_input_gate(weights[name]), array)
    window = LSTMWindow(stock, case.frequencies, rows=case.rows, window=T)
    after = [(h.copy(), c.copy()) for h, c in case.state]
    assert window.run(
        weights, case.ids, case.targets, after, LSTMWeights(stock), case.masks
    ) == pytest.approx(loss, abs=1e-6)
    for part, expected in zip(after, state, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16 products")
def test_in_bfloat16_factors_are_rounded() -> None:
    case = Case("one layer")
    assert case.run(case.window("bfloat16"))[0] != case.run(case.window("float32"))[0]


@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("name", ["two layers, odd sizes", "many characters", "a hidden layer"])
def test_a_window_leaves_nothing_behind_for_the_next(name: str, dtype: str) -> None:
    case, other = Case(name), Case(name, soft=True)
    window = case.window(dtype)
    first = case.run(window)
    other.weights.flat[:] *= -2
    other.run(window)
    again = case.run(window)
    assert again[0] == first[0]
    np.testing.assert_equal(again[1:], first[1:])


def test_two_windows_with_the_state_carried_read_as_one_long_window() -> None:
    case = Case("two layers, odd sizes")
    state = [(h.copy(), c.copy()) for h, c in case.state]
    whole = LSTMWindow(case.shape, case.frequencies, rows=case.rows, window=2 * T)
    ids, targets = (np.concatenate([array, array[::-1]]) for array in (case.ids, case.targets))
    loss, _, end = case.run(case.window())
    second = case.window().run(case.weights, ids[T:], targets[T:], end, case.gradient, case.masks)
    expected = whole.run(case.weights, ids, targets, state, case.gradient, case.masks)
    assert (loss + second) / 2 == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(end, state, atol=1e-6)


def test_nan_propagates() -> None:
    case = Case("one layer")
    case.weights["lstm_0/recurrent"][0, 0] = np.nan
    loss, gradients, _ = case.run(case.window())
    assert np.isnan(loss)
    assert np.isnan(gradients["dense/kernel"]).any()


@pytest.mark.parametrize("size", [1, 15, 16, 40])
def test_the_mean_gradient_and_its_norm(size: int) -> None:
    random = np.random.default_rng(0)
    parts, mean = random.normal(size=(3, size + 3)).astype("f"), np.zeros(size + 3, "f")
    squares = average(parts, mean, 2, 2 + size)
    expected = parts.mean(0)[2 : 2 + size]
    np.testing.assert_allclose(mean, [0, 0, *expected, 0], atol=1e-6)
    assert squares == pytest.approx(float(np.square(expected).sum()), rel=1e-5)
