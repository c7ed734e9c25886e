"""FastLSTM compared with the stock layer, at tiny unequal sizes."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.architectures.lstm_layer import FastLSTM

B, T, E, H = 2, 3, 4, 5
ROWS_OF_Z = tf.reshape(tf.range(T * B), (T, B))

Run = Callable[[Any, tf.Tensor, tf.Tensor, tf.Tensor], list[tf.Tensor]]


def _layers(policy: str = "float32") -> tuple[FastLSTM, keras.layers.LSTM]:
    keras.utils.set_random_seed(7)
    fast = FastLSTM(H, return_sequences=True, return_state=True, dtype=policy)
    stock = keras.layers.LSTM(H, return_sequences=True, return_state=True, dtype=policy)
    for layer in (fast, stock):
        layer.build((None, None, E))
    stock.set_weights(fast.get_weights())
    return fast, stock


def _inputs() -> tuple[tf.Variable, tf.Variable, tf.Variable]:
    rng = np.random.default_rng(3)
    x, h, c = (rng.normal(size=shape).astype("f") for shape in ((T, B, E), (B, H), (B, H)))
    return tf.Variable(x), tf.Variable(h), tf.Variable(c)


def _run_fast(layer: FastLSTM, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> list[tf.Tensor]:
    return list(layer.sequence(layer.project(tf.reshape(x, (-1, E))), ROWS_OF_Z, h, c))


def _run_stock(layer: keras.layers.LSTM, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> list[tf.Tensor]:
    y, *state = layer(tf.transpose(x, (1, 0, 2)), initial_state=[h, c])
    return [tf.cast(result, tf.float32) for result in (tf.transpose(y, (1, 0, 2)), *state)]


def _run_keras(layer: FastLSTM, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> list[tf.Tensor]:
    return list(layer.run_keras(x, h, c))


def _results_and_gradients(layer: keras.layers.LSTM, run: Run) -> list[np.ndarray]:
    """Return outputs and states, then the gradients of inputs, state and weights."""
    x, h, c = _inputs()
    # Different weights for every element, so that no two errors cancel.
    weighting = [
        tf.constant(np.random.default_rng(i).normal(size=s), tf.float32)
        for i, s in enumerate([(T, B, H), (B, H), (B, H)])
    ]
    variables = [x, h, c, *(v.value for v in layer.trainable_variables)]

    def compute() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            results = run(layer, x, h, c)
            loss = tf.add_n([tf.reduce_sum(w * r) for w, r in zip(weighting, results, strict=True)])
        return [*results, *tape.gradient(loss, variables)]

    return [np.asarray(array) for array in tf.function(compute)()]


def test_outputs_and_states_equal_those_of_the_stock_layer() -> None:
    fast, stock = _layers()
    inputs = _inputs()
    for actual, expected in zip(_run_fast(fast, *inputs), _run_stock(stock, *inputs), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_every_gradient_equals_that_of_the_stock_layer() -> None:
    fast, stock = _layers()
    actual = _results_and_gradients(fast, _run_fast)
    expected = _results_and_gradients(stock, _run_stock)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_run_keras_equals_the_stock_layer_in_every_precision(policy: str) -> None:
    fast, stock = _layers(policy)
    actual = _results_and_gradients(fast, _run_keras)
    expected = _results_and_gradients(stock, _run_stock)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("policy", "roundoff"), [("mixed_float16", 2**-11), ("mixed_bfloat16", 2**-8)])
def test_in_mixed_precision_the_kernels_are_within_four_roundoffs_of_the_stock_layer(
    policy: str, roundoff: float
) -> None:
    fast, stock = _layers(policy)
    actual = _results_and_gradients(fast, _run_fast)
    expected = _results_and_gradients(stock, _run_stock)
    largest = max(np.abs(part).max() for part in expected)
    difference = max(np.abs(a - b).max() for a, b in zip(actual, expected, strict=True))
    assert 0 < difference < 4 * roundoff * largest


def test_two_windows_with_the_state_carried_equal_one_long_window() -> None:
    fast, _ = _layers()
    x, h, c = _inputs()
    z = fast.project(tf.reshape(x, (-1, E)))
    whole, h_end, c_end = fast.sequence(z, ROWS_OF_Z, h, c)
    first, h_mid, c_mid = fast.sequence(z, ROWS_OF_Z[:1], h, c)
    rest, h_last, c_last = fast.sequence(z, ROWS_OF_Z[1:], h_mid, c_mid)
    np.testing.assert_allclose(tf.concat([first, rest], 0), whole, atol=1e-6)
    np.testing.assert_allclose(h_last, h_end, atol=1e-6)
    np.testing.assert_allclose(c_last, c_end, atol=1e-6)
