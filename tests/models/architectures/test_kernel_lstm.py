"""The network that the kernels train, its Keras copy and its ONNX graph compute the same function."""

import io
import json
import zipfile
from typing import Any

import h5py
import numpy as np
import pytest

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.lstm_window import LSTMWindow
from nextchar.models.runtime.session import Network
from nextchar.worker.evaluation import graph_of, keras_file
from tests.models.architectures.networks import V, loaded_by_keras, random_ids, small

B, T = 2, 5
LSTMS = ["stateful_lstm", "stateful_lstm_lesson", "stacked_lstm_lesson", "coupled"]


def config_of(name: str, **changes: object) -> NetworkConfig:
    """Return the shape of a small network; `coupled` is the default one with coupled gates."""
    return (
        small("stateful_lstm", coupled_gates=True, **changes) if name == "coupled" else small(name, **changes)
    )


def network(name: str, *, seed: int = 2, **changes: object) -> KernelLSTM:
    """Return a small network with random weights that all matter."""
    config = config_of(name, **changes)
    build = architecture(config.architecture).build_for_kernels
    assert build
    random = np.random.default_rng(5)
    made: KernelLSTM = build(config, random.dirichlet(np.ones(V)), seed=seed)
    made.arrays.flat[:] += random.normal(scale=0.3, size=made.arrays.flat.size)
    return made


def nats(logits: np.ndarray, targets: np.ndarray) -> float:
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(-np.take_along_axis(log_p, targets[..., None], -1).mean())


def training_nats(lstm: KernelLSTM, ids: np.ndarray, targets: np.ndarray) -> float:
    window = LSTMWindow(lstm.shape, lstm.frequencies, rows=B, window=T)
    zeros = [(np.zeros((B, lstm.config.units), "f"), np.zeros((B, lstm.config.units), "f"))]
    return window.run(
        lstm.arrays, ids, targets, zeros * lstm.config.layers, lstm.arrays.__class__(lstm.shape)
    )


@pytest.mark.parametrize("name", LSTMS)
def test_runtime_and_keras_predict_as_training_does(name: str) -> None:
    lstm, ids, targets = network(name), random_ids(T, B), random_ids(T, B)[::-1]
    expected = training_nats(lstm, ids, np.ascontiguousarray(targets))
    runtime = Network(graph_of(lstm))
    logits, _ = runtime.step(ids, runtime.initial_state(B))
    assert nats(logits, targets) == pytest.approx(expected, abs=1e-5)
    zeros = [np.zeros((B, lstm.config.units), "f")] * 2 * lstm.config.layers
    keras_logits, *_ = loaded_by_keras(lstm)([ids.T, *zeros])
    assert nats(np.transpose(keras_logits, (1, 0, 2)), targets) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", LSTMS)
def test_its_keras_file_is_the_one_that_keras_saves(name: str, layers: int) -> None:
    lstm = network(name, layers=layers)
    keras_network = architecture(lstm.config.architecture).build(lstm.config, lstm.frequencies, seed=1)
    for target, source in zip(keras_network.variables, lstm.variables, strict=True):
        target.assign(source.numpy())
    (config, metadata, weights), theirs = parts_of(keras_file(lstm)), parts_of(keras_file(keras_network))
    assert config == theirs[0]
    assert metadata["keras_version"] == theirs[1]["keras_version"]
    assert metadata.keys() == theirs[1].keys()
    assert [name for name, _ in weights] == [name for name, _ in theirs[2]]
    for (path, ours), (_, value) in zip(weights, theirs[2], strict=True):
        np.testing.assert_allclose(ours, value, atol=1e-6, err_msg=path)


def parts_of(file: bytes) -> tuple[Any, dict[str, str], list[tuple[str, Any]]]:
    """Return the configuration, the metadata, and arrays and attributes of a `.keras` file, by their paths.

    Objects are shared or not; that is left out.
    """
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        config = json.loads(archive.read("config.json"), object_hook=without_shared_object_id)
        metadata = json.loads(archive.read("metadata.json"))
        found: list[tuple[str, Any]] = []

        def visit(path: str, node: h5py.Group | h5py.Dataset) -> None:
            found.append((f"{path} {dict(node.attrs)} {getattr(node, 'dtype', '')}", np.zeros(0)))
            if isinstance(node, h5py.Dataset):
                found.append((path, node[...]))

        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            weights.visititems(visit)
    return config, metadata, found


def without_shared_object_id(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name != "shared_object_id"}


@pytest.mark.parametrize("name", LSTMS)
def test_its_weights_are_those_of_the_keras_network_in_the_same_order(name: str) -> None:
    config = config_of(name)
    keras_network = architecture(config.architecture).build(config, np.full(V, 1 / V), seed=1)
    assert [v.shape for v in network(name).variables] == [tuple(v.shape) for v in keras_network.variables]


@pytest.mark.parametrize("name", LSTMS)
def test_loaded_weights_compute_the_same_for_another_text(name: str) -> None:
    lstm, other = network(name), network(name, seed=3)
    other.frequencies = np.full(V, 1 / V, "f")
    other.load(lstm.weights())
    for part, expected in lstm.weights().items():
        np.testing.assert_allclose(other.weights()[part], expected, atol=1e-5, err_msg=part)


def test_the_embedding_is_normalized_over_the_corpus() -> None:
    frequencies = np.random.default_rng(1).dirichlet(np.ones(V))
    table = KernelLSTM(small("stateful_lstm"), frequencies, seed=1).weights()["embedding"]
    np.testing.assert_allclose(frequencies @ table, 0, atol=1e-5)
    assert (frequencies @ np.square(table) < 1).all()  # epsilon keeps it below one


def test_initial_weights_are_distributed_as_those_of_keras() -> None:
    config = small("stateful_lstm", units=64, embedding=32, layers=2, coupled_gates=False)
    frequencies = np.full(V, 1 / V)
    ours = KernelLSTM(config, frequencies, seed=1).variables
    theirs = architecture("stateful_lstm").build(config, frequencies, seed=1).variables
    for one, other in zip(ours, theirs, strict=True):
        a, b = one.numpy(), other.numpy()
        assert a.mean() == pytest.approx(b.mean(), abs=0.02)
        assert a.std() == pytest.approx(b.std(), rel=0.1)
        assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=0.15)
    recurrent = KernelLSTM(config, frequencies, seed=1).arrays["lstm_0/recurrent"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(64), atol=1e-5)


def test_a_seed_gives_the_same_weights() -> None:
    config, frequencies = small("stateful_lstm"), np.full(V, 1 / V)
    first, same, other = (KernelLSTM(config, frequencies, seed=seed).arrays.flat for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()
