"""On a GPU the LSTM networks call cuDNN, and compute the same.

cuDNN is a fake (`fake_cudnn.py`); Keras's choice of it and its arguments are real.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.spec import Differentiable
from tests.models.architectures.fake_cudnn import fake_gpu
from tests.models.architectures.networks import perturbed, random_ids, small

B, T = 2, 3
LSTMS = ["stateful_lstm", "stateful_lstm_lesson", "stacked_lstm_lesson"]


@pytest.fixture
def _restored_policy() -> Iterator[None]:
    yield
    keras.config.set_dtype_policy("float32")


def _network(name: str) -> Differentiable:
    layers = 1 if name == "stateful_lstm_lesson" else 2
    return perturbed(small(name, layers=layers, dropout=0.2))


def _logits_and_gradients(network: Differentiable) -> list[np.ndarray]:
    """Return the logits, state and gradients of two windows."""
    variables = [v.value for v in network.variables]
    ids, seed = tf.constant(random_ids(T, B)), tf.constant([4, 0])
    with tf.GradientTape() as tape:
        _, state = network.logits(ids, network.initial_state(B), seed=seed)
        logits, state = network.logits(ids, state, seed=seed)
        loss = (
            tf.reduce_sum(logits * tf.reshape(tf.range(tf.size(logits), dtype=tf.float32), logits.shape))
            / 100
        )
    return [np.asarray(part) for part in (logits, *tf.nest.flatten(state), *tape.gradient(loss, variables))]


@pytest.mark.parametrize("name", LSTMS)
def test_every_lstm_layer_is_one_call_of_cudnn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu = _logits_and_gradients(_network(name))
    cudnn = fake_gpu(monkeypatch)
    network = _network(name)
    with_gpu = _logits_and_gradients(network)
    assert len(cudnn.calls) == 2 * network.config.layers
    for call in cudnn.calls:
        assert call["shape"][:2] == (B, T)
        assert call["dtype"] == "float32"
        assert call["rnn_mode"] == "lstm"
        assert call["is_training"] is True
        assert call["time_major"] is False
    for actual, expected in zip(with_gpu, without_gpu, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_restored_policy")
def test_in_mixed_precision_only_cudnn_gets_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _logits_and_gradients(_network("stateful_lstm"))
    keras.config.set_dtype_policy("mixed_float16")
    cudnn = fake_gpu(monkeypatch)
    network = _network("stateful_lstm")
    mixed = _logits_and_gradients(network)
    assert {call["dtype"] for call in cudnn.calls} == {"float16"}
    assert {v.numpy().dtype for v in network.variables} == {np.dtype("float32")}
    for actual, expected in zip(mixed, exact, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())
