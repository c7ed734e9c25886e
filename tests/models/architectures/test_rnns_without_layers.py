"""The RNNs without Keras layers, compared with Keras layers and TensorFlow's gradients."""

import numpy as np
import pytest

from nextchar.models.architectures.lazy import tf
from nextchar.models.architectures.scan_rnn import (
    NumpyRNN,
    NumpyStep,
    ScanRNN,
    ScanStep,
    backward,
    initial_weights,
)
from nextchar.models.architectures.simple_rnn import OneHotRNN, SequenceRNN
from nextchar.models.config import TrainingConfig
from tests.models.architectures.networks import V, perturbed, random_ids, small

SEED = np.zeros(2, np.int32)
H = 6


def _sequence() -> SequenceRNN:
    network = perturbed(small("sequence_rnn"))
    assert isinstance(network, SequenceRNN)
    return network


def _logits(network: SequenceRNN | ScanRNN | NumpyRNN, ids: np.ndarray) -> np.ndarray:
    return np.asarray(network.logits(tf.constant(ids), (), seed=SEED)[0])


def test_a_one_hot_rnn_with_a_folded_embedding_equals_the_embedded_rnn() -> None:
    sequence, onehot = _sequence(), perturbed(small("onehot_rnn"))
    assert isinstance(onehot, OneHotRNN)
    kernel, recurrent, bias = sequence._rnn.get_weights()
    onehot._rnn.set_weights([sequence._embedding.get_weights()[0] @ kernel, recurrent, bias])
    onehot._dense.set_weights(sequence._dense.get_weights())
    ids = random_ids(8, 3)
    np.testing.assert_allclose(_logits(onehot, ids), _logits(sequence, ids), atol=1e-5)


@pytest.mark.parametrize("name", ["scan_rnn", "numpy_rnn"])
def test_an_rnn_without_layers_equals_the_layers(name: str) -> None:
    sequence, rnn = _sequence(), perturbed(small(name), seed=8)
    assert isinstance(rnn, ScanRNN | NumpyRNN)
    kernel, recurrent, bias = sequence._rnn.get_weights()
    weights = [sequence._embedding.get_weights()[0] @ kernel, recurrent, bias, *sequence._dense.get_weights()]
    for variable, value in zip(rnn.variables, weights, strict=True):
        variable.assign(value)
    ids = random_ids(8, 3)
    np.testing.assert_allclose(_logits(rnn, ids), _logits(sequence, ids), atol=1e-5)


@pytest.mark.parametrize(("steps", "rows"), [(8, 1), (5, 3)])
def test_gradients_by_hand_equal_those_of_tensorflow(steps: int, rows: int) -> None:
    random = np.random.default_rng(4)
    weights = {
        name: value.astype(np.float64) + random.normal(scale=0.3, size=value.shape)
        for name, value in initial_weights(V, H, seed=1).items()
    }
    ids, targets = random_ids(steps, rows), random_ids(steps, rows)[::-1].copy()
    ids[1, 0] = ids[-1, -1] = 0
    loss, by_hand = backward(weights, ids, targets)
    variables = {name: tf.Variable(value) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        h, losses = tf.zeros((rows, H), tf.float64), []
        for t in range(steps):
            x = tf.gather(variables["Wx"], ids[t])
            new = tf.nn.relu(x + h @ variables["Wh"] + variables["bh"])
            h = tf.where((ids[t] != 0)[:, None], new, h)
            y = h @ variables["Wy"] + variables["by"]
            losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(targets[t], y))
        mean = tf.reduce_mean(tf.stack(losses))
    assert loss == pytest.approx(float(mean), abs=1e-12)
    for name, gradient in tape.gradient(mean, variables).items():
        expected = tf.convert_to_tensor(gradient).numpy()
        error = np.linalg.norm(by_hand[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-5, (name, error)
        assert np.linalg.norm(expected) > 1e-3


def test_gradients_by_hand_equal_finite_differences() -> None:
    weights = {n: v.astype(np.float64) + 0.1 for n, v in initial_weights(V, H, seed=3).items()}
    ids, targets = random_ids(6, 2), random_ids(6, 2)[::-1].copy()
    ids[0, 0] = ids[2:4, 1] = 0
    _, gradients = backward(weights, ids, targets)
    for name, gradient in gradients.items():
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        losses = []
        for delta in (1e-6, -1e-6):
            moved = {n: v.copy() for n, v in weights.items()}
            moved[name][index] += delta
            losses.append(backward(moved, ids, targets)[0])
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient[index], rel=1e-5)
    assert not gradients["Wx"][0].any()


def test_training_by_hand_equals_training_by_tensorflow() -> None:
    scan, by_hand = perturbed(small("scan_rnn")), perturbed(small("numpy_rnn"))
    assert isinstance(scan, ScanRNN)
    assert isinstance(by_hand, NumpyRNN)
    for target, source in zip(by_hand.variables, scan.variables, strict=True):
        target.assign(source.numpy())
    training = TrainingConfig(rows=1, window=8, clip_norm=0.5)
    steps = ScanStep(scan, training, rows=1), NumpyStep(by_hand, training, rows=1)
    for number in range(1, 4):
        ids = np.roll(random_ids(8, 1, min_id=0), number)
        assert 0 in ids
        losses = [step.run(ids, np.roll(ids, -1), step=number, learning_rate=0.1) for step in steps]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for actual, expected in zip(by_hand.variables, scan.variables, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-5)
