"""The trainable network, its Keras copy and its ONNX graph compute the same function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.architectures.lazy import tf
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.config import NetworkConfig
from nextchar.models.runtime.session import Network

V, B, T = 7, 2, 5


def _network(*, vocabulary_size: int = V, layers: int = 2, dropout: float = 0.0) -> StatefulLSTM:
    rng = np.random.default_rng(5)
    frequencies = rng.dirichlet(np.ones(vocabulary_size))
    frequencies[0] = 0.0
    config = NetworkConfig(layers=layers, units=6, embedding=3, dropout=dropout)
    network = StatefulLSTM(config, frequencies / frequencies.sum(), seed=2)
    for variable in network.variables:  # away from zeros and ones, so that each weight matters
        variable.assign(variable + rng.normal(scale=0.3, size=variable.shape))
    return network


def _ids(vocabulary_size: int = V) -> np.ndarray:
    return np.random.default_rng(9).integers(0, vocabulary_size, (T, B)).astype(np.int32)


@pytest.mark.parametrize("vocabulary_size", [V, 300])  # lookup by product and by gathering
def test_runtime_and_keras_give_the_training_logits(vocabulary_size: int) -> None:
    network, ids = _network(vocabulary_size=vocabulary_size), _ids(vocabulary_size)
    expected, state = network.logits(tf.constant(ids), network.initial_state(B), seed=tf.constant([0, 0]))
    runtime = Network(stateful_lstm_graph(network.weights()))
    logits, packed_state = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(
        packed_state, tf.concat([part for pair in state for part in pair], 1), atol=1e-5
    )
    zeros = [np.zeros((B, 6), "f")] * 4
    keras_logits, *keras_state = network.keras_model()([ids.T, *zeros])
    np.testing.assert_allclose(tf.transpose(keras_logits, (1, 0, 2)), expected, atol=1e-5)
    np.testing.assert_allclose(tf.concat(keras_state, 1), packed_state, atol=1e-5)


def test_lookup_by_gathering_has_the_same_gradient_as_by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    network, ids = _network(), tf.constant(_ids())

    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits, _ = network.logits(ids, network.initial_state(B), seed=tf.constant([0, 0]))
            loss = tf.reduce_sum(tf.square(logits))
        return tape.gradient(loss, [v.value for v in network.variables])

    by_product = gradients()
    monkeypatch.setattr("nextchar.models.architectures.lazy.SMALL_TABLE", 0)
    for actual, expected in zip(gradients(), by_product, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_normalized_over_the_corpus() -> None:
    rng = np.random.default_rng(1)
    frequencies = rng.dirichlet(np.ones(V))
    network = StatefulLSTM(NetworkConfig(units=4, embedding=3), frequencies, seed=1)
    table = network.weights()["embedding"]
    np.testing.assert_allclose(frequencies @ table, 0, atol=1e-5)
    assert (frequencies @ np.square(table) < 1).all()  # epsilon keeps it below one


def test_a_dropout_mask_is_the_same_at_every_step_and_differs_by_seed() -> None:
    network = _network(layers=1, dropout=0.5)
    hs = tf.ones((T, B, 6))
    mask, same, other = (network._dropped(hs, tf.constant([seed, 0])).numpy() for seed in (1, 1, 2))
    assert (mask == same).all()
    assert (mask == mask[:1]).all()
    assert (mask != other).any()
    assert set(np.unique(mask)) == {0.0, 2.0}


def test_the_keras_file_needs_no_nextchar_code_and_gives_the_same_logits(tmp_path: Path) -> None:
    network, ids = _network(), _ids()
    network.keras_model().save(tmp_path / "model.keras")
    expected, _ = network.logits(tf.constant(ids), network.initial_state(B), seed=tf.constant([0, 0]))
    np.savez(tmp_path / "case.npz", ids=ids.T, logits=np.transpose(expected, (1, 0, 2)))
    script = (
        "import sys, numpy as np, keras\n"
        "model = keras.saving.load_model('model.keras')\n"
        "case = np.load('case.npz')\n"
        "logits, *_ = model([case['ids'], *[np.zeros((2, 6), 'f')] * 4])\n"
        "np.testing.assert_allclose(logits, case['logits'], atol=1e-5)\n"
        "assert not any(name.split('.')[0] in ('models', 'worker', 'store') for name in sys.modules)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
