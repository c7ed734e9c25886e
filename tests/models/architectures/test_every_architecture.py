"""Properties of every architecture: training, Keras and the runtime compute the same function."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures import NAMES, architecture, check_options, resolve_training
from nextchar.models.architectures.lazy import keras, tf
from nextchar.models.architectures.onnx_graph import quantize
from nextchar.models.architectures.spec import Differentiable, Trainable
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.session import Network
from tests.models.architectures.networks import V, perturbed, random_ids, small

B = 3
RECURRENT = [name for name in NAMES if architecture(name).network.context is None]
WINDOWED = [name for name in NAMES if name not in RECURRENT]


@cache
def network_of(name: str) -> Differentiable:
    """Return the small network of an architecture, which no test changes."""
    return perturbed(small(name))


def runtime_of(network: Trainable) -> Network:
    return Network(architecture(network.config.architecture).graph(network.config, network.weights()))


def training_logits(network: Trainable, ids: np.ndarray) -> np.ndarray:
    seed = tf.constant([0, 1])
    if isinstance(network.initial_state(1), tf.Tensor):  # a seed with which no row has an empty context
        seed = next(s for s in (tf.constant([0, i]) for i in range(99)) if _keeps_contexts(s, ids.shape[1]))
    logits, _ = network.logits(tf.constant(ids), network.initial_state(ids.shape[1]), seed=seed)
    return np.asarray(logits)


def _keeps_contexts(seed: tf.Tensor, rows: int) -> bool:
    return bool(tf.reduce_all(tf.random.stateless_uniform((rows, 1), seed) > 0.1))


def keras_logits(network: Trainable, ids: np.ndarray) -> np.ndarray:
    """Return the logits (B, V) after the last of ids (T, B), by the stock Keras model."""
    model, rows = network.keras_model(), ids.shape[1]
    if network.config.architecture in ("three_char", "nth_char"):
        return np.asarray(model([column[:, None] for column in ids]))
    if network.config.context:
        answer = np.asarray(model(ids.T))
        return answer if answer.ndim == 2 else answer[:, -1]
    zeros = [np.zeros((rows, network.config.units), "f")] * (2 * network.config.layers)
    return np.asarray(model([ids.T, *zeros])[0])[:, -1]


@pytest.mark.parametrize("name", NAMES)
def test_runtime_and_keras_give_the_training_logits(name: str) -> None:
    network = network_of(name)
    ids = random_ids(network.config.context or 9, B)
    runtime = runtime_of(network)
    logits, _ = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(logits, training_logits(network, ids), atol=1e-4)
    np.testing.assert_allclose(logits[-1], keras_logits(network, ids), atol=1e-4)
    assert np.ptp(logits) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_training_treats_unknown_characters_as_the_runtime_does(name: str) -> None:
    network = network_of(name)
    ids = random_ids(network.config.context or 9, B)
    ids[0, 0] = ids[2, :2] = ids[-1, 1:] = 0
    runtime = runtime_of(network)
    logits, _ = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(logits, training_logits(network, ids), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_equals_one_pass(name: str) -> None:
    runtime, ids = runtime_of(network_of(name)), random_ids(21, B, min_id=0)
    whole, end = runtime.step(ids, runtime.initial_state(B))
    state, parts = runtime.initial_state(B), []
    for step in ids:
        logits, state = runtime.step(step[None], state)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    np.testing.assert_allclose(state, end, atol=1e-5)
    tail, after = runtime.step(ids, runtime.initial_state(B), 17)
    np.testing.assert_allclose(tail, whole[17:], atol=1e-5)
    np.testing.assert_allclose(after, end, atol=1e-5)
    no_logits, _ = runtime.step(ids, runtime.initial_state(B), 21)
    assert no_logits.shape == (0, B, V)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_network_ignores_text_before_its_window(name: str) -> None:
    network = network_of(name)
    runtime, context = runtime_of(network), network.config.context
    assert context
    ids = random_ids(30, B)
    whole, state = runtime.step(ids, runtime.initial_state(B))
    window, _ = runtime.step(ids[-context:], runtime.initial_state(B))
    np.testing.assert_allclose(window[-1], whole[-1], atol=1e-5)
    np.testing.assert_array_equal(state, ids[1 - context :].T)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_text_shorter_than_the_window_is_padded(name: str) -> None:
    network = perturbed(small(name, context=5))
    short_window = perturbed(small(name, context=2))  # the same weights, and a window of two
    for source, target in zip(network.variables, short_window.variables, strict=True):
        target.assign(source.numpy())
    ids = random_ids(2, B)
    runtime, other = runtime_of(network), runtime_of(short_window)
    short, _ = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(short, other.step(ids, other.initial_state(B))[0], atol=1e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_an_unknown_character_is_skipped(name: str) -> None:
    network = perturbed(small(name, context=4))
    runtime, ids = runtime_of(network), random_ids(3, B)
    known, _ = runtime.step(ids, runtime.initial_state(B))
    holed, _ = runtime.step(np.insert(ids, 1, 0, axis=0), runtime.initial_state(B))
    np.testing.assert_allclose(holed[-1], known[-1], atol=1e-5)
    if name in ("simple_rnn", "sequence_rnn", "onehot_rnn"):  # their Keras forms mask it
        np.testing.assert_allclose(keras_logits(network, np.insert(ids, 1, 0, axis=0)), known[-1], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_int8_graph_is_close_to_the_float32_graph(name: str) -> None:
    config = small(name, units=16)
    network = perturbed(config)
    graph = architecture(name).graph(config, network.weights())
    ids = random_ids(9, B)
    exact, rounded = Network(graph), Network(quantize(graph))
    logits, _ = exact.step(ids, exact.initial_state(B))
    near, _ = rounded.step(ids, rounded.initial_state(B))
    assert np.abs(near - logits).max() < 0.1 * np.ptp(logits)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name != "numpy_rnn"]
)  # whose gradients are by hand
def test_every_weight_gets_a_gradient(name: str) -> None:
    network, ids = network_of(name), random_ids(8, B)
    variables = [v.value if isinstance(v, keras.Variable) else v for v in network.variables]
    with tf.GradientTape() as tape:
        logits, _ = network.logits(tf.constant(ids), network.initial_state(B), seed=tf.constant([0, 1]))
        loss = tf.reduce_sum(tf.square(logits))
    for gradient in tape.gradient(loss, variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


@pytest.mark.parametrize("name", [name for name in NAMES if architecture(name).can_load_weights])
def test_a_network_with_loaded_weights_computes_the_same(name: str) -> None:
    network, other = network_of(name), perturbed(small(name), seed=8)
    other.load(network.weights())  # type: ignore[attr-defined]
    ids = random_ids(9, B)
    np.testing.assert_allclose(training_logits(other, ids), training_logits(network, ids), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_specification_is_consistent(name: str) -> None:
    spec = architecture(name)
    assert spec.network.architecture == name
    assert spec.description.endswith(".") and spec.description.count(".") <= 2
    assert set(spec.network_options) <= set(NetworkConfig.model_fields)
    assert set(spec.training_options) <= set(TrainingConfig.model_fields)
    assert resolve_training(spec.network, spec.training) == spec.training


def test_an_unknown_architecture_is_an_error_that_lists_all() -> None:
    with pytest.raises(
        InvalidInput, match="no architecture 'gru'; choose one of stateful_lstm, three_char"
    ) as caught:
        architecture("gru")
    assert caught.value.code == "unknown_architecture"


@pytest.mark.parametrize(
    ("name", "section", "field"),
    [
        ("three_char", "network", "context"),
        ("onehot_rnn", "network", "embedding"),
        ("nth_char", "network", "layers"),
        ("sequence_rnn", "training", "window"),
        ("numpy_rnn", "training", "rows"),
        ("stateful_lstm", "network", "context"),
    ],
)
def test_an_unavailable_option_is_an_error_that_names_it(name: str, section: str, field: str) -> None:
    options: dict[str, Any] = {"network": [], "training": []} | {section: [field]}
    with pytest.raises(InvalidInput) as caught:
        check_options(name, **options)
    assert caught.value.param == f"{section}.{field}"
    assert f"{name} has no such option" in caught.value.message


def test_independent_windows_are_as_long_as_the_context() -> None:
    network = small("sequence_rnn", context=5)
    assert resolve_training(network, architecture("sequence_rnn").training).window == 5


def test_some_rows_are_trained_with_an_empty_context() -> None:
    network = perturbed(small("simple_rnn"))
    ids, before = np.repeat(random_ids(2, 1), 400, 1), np.repeat(random_ids(7, 1), 400, 1)
    logits, after = network.logits(
        tf.constant(ids), tf.constant(before.T.astype("f")), seed=tf.constant([3, 4])
    )
    kinds, counts = np.unique(np.round(logits[0], 4), axis=0, return_counts=True)
    assert len(kinds) == 2
    assert 1 < counts.min() < 20  # of 400, one in 64 on average
    np.testing.assert_array_equal(after, np.concatenate([before, ids])[-7:].T)  # the state keeps the context


def test_three_char_shares_its_layers_between_characters() -> None:
    model = perturbed(small("three_char")).keras_model()
    assert [i.shape for i in model.inputs] == [(None, 1)] * 3
    shared = [
        layer for layer in model.layers if isinstance(layer, (keras.layers.Dense, keras.layers.Embedding))
    ]
    assert sorted(layer.name for layer in shared) == ["dense", "embedding", "hidden", "input"]
