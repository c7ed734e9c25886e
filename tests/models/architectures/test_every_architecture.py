"""What holds of every architecture: one function in training, in Keras and in the runtime."""

import importlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.architectures import NAMES, architecture, check_options, resolve_training
from models.architectures.memory import count_parameters
from models.architectures.onnx_graph import quantize
from models.architectures.spec import Trainable
from models.config import NetworkConfig, TrainingConfig
from models.errors import InvalidInput
from models.runtime.session import Network
from tests.models.architectures.networks import V, perturbed, small, some_ids

B = 3
REMEMBERING = [name for name in NAMES if architecture(name).network.context is None]
SEEING_WINDOWS = [name for name in NAMES if name not in REMEMBERING]


def runtime_of(network: Trainable) -> Network:
    return Network(architecture(network.config.architecture).graph(network.config, network.weights()))


def training_logits(network: Trainable, ids: np.ndarray) -> np.ndarray:
    seed = tf.constant([0, 1])
    if isinstance(network.initial_state(1), tf.Tensor):  # no row is read as the beginning of a text
        seed = next(s for s in (tf.constant([0, i]) for i in range(99)) if _begins_nothing(s, ids.shape[1]))
    logits, _ = network.logits(tf.constant(ids), network.initial_state(ids.shape[1]), seed=seed)
    return np.asarray(logits)


def _begins_nothing(seed: tf.Tensor, rows: int) -> bool:
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
    network = perturbed(small(name))
    ids = some_ids(network.config.context or 9, B)
    runtime = runtime_of(network)
    logits, _ = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(logits, training_logits(network, ids), atol=1e-4)
    np.testing.assert_allclose(logits[-1], keras_logits(network, ids), atol=1e-4)
    assert np.ptp(logits) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_equals_one_pass_from_any_beginning(name: str) -> None:
    runtime, ids = runtime_of(perturbed(small(name))), some_ids(21, B, least=0)
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
    nothing, _ = runtime.step(ids, runtime.initial_state(B), 21)
    assert nothing.shape == (0, B, V)


@pytest.mark.parametrize("name", SEEING_WINDOWS)
def test_a_window_network_forgets_what_came_before_its_window(name: str) -> None:
    network = perturbed(small(name))
    runtime, context = runtime_of(network), network.config.context
    assert context
    ids = some_ids(30, B)
    whole, state = runtime.step(ids, runtime.initial_state(B))
    window, _ = runtime.step(ids[-context:], runtime.initial_state(B))
    np.testing.assert_allclose(window[-1], whole[-1], atol=1e-5)
    np.testing.assert_array_equal(state, ids[1 - context :].T)


@pytest.mark.parametrize("name", SEEING_WINDOWS)
def test_a_prompt_shorter_than_the_window_is_read_as_the_whole_text_it_is(name: str) -> None:
    network = perturbed(small(name, context=5))
    long_enough = perturbed(small(name, context=2))  # the same weights, and a window of two
    for ours, theirs in zip(network.variables, long_enough.variables, strict=True):
        theirs.assign(ours.numpy())
    ids = some_ids(2, B)
    runtime, other = runtime_of(network), runtime_of(long_enough)
    short, _ = runtime.step(ids, runtime.initial_state(B))
    np.testing.assert_allclose(short, other.step(ids, other.initial_state(B))[0], atol=1e-5)


@pytest.mark.parametrize("name", SEEING_WINDOWS)
def test_an_unknown_character_counts_for_nothing(name: str) -> None:
    network = perturbed(small(name, context=4))
    runtime, ids = runtime_of(network), some_ids(3, B)
    known, _ = runtime.step(ids, runtime.initial_state(B))
    holed, _ = runtime.step(np.insert(ids, 1, 0, axis=0), runtime.initial_state(B))
    np.testing.assert_allclose(holed[-1], known[-1], atol=1e-5)
    if name in ("simple_rnn", "sequence_rnn", "onehot_rnn"):  # their Keras forms mask it
        np.testing.assert_allclose(keras_logits(network, np.insert(ids, 1, 0, axis=0)), known[-1], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameter_count_is_that_of_the_built_network(name: str) -> None:
    network = perturbed(small(name))
    assert count_parameters(network.config, V) == sum(v.numpy().size for v in network.variables) + _moments(
        network
    )


def _moments(network: Trainable) -> int:
    """The Keras form of a normalisation also has its mean and variance."""
    return 0 if network.config.context else 2 * (network.config.embedding or 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_int8_form_of_the_graph_answers_nearly_as_the_float32_form(name: str) -> None:
    config = small(name, units=16)
    network = perturbed(config)
    graph = architecture(name).graph(config, network.weights())
    ids = some_ids(9, B)
    exact, rounded = Network(graph), Network(quantize(graph))
    logits, _ = exact.step(ids, exact.initial_state(B))
    near, _ = rounded.step(ids, rounded.initial_state(B))
    assert np.abs(near - logits).max() < 0.1 * np.ptp(logits)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name != "numpy_rnn"]
)  # whose gradients are by hand
def test_every_weight_gets_a_gradient(name: str) -> None:
    network, ids = perturbed(small(name)), some_ids(8, B)
    variables = [v.value if isinstance(v, keras.Variable) else v for v in network.variables]
    with tf.GradientTape() as tape:
        logits, _ = network.logits(tf.constant(ids), network.initial_state(B), seed=tf.constant([0, 1]))
        loss = tf.reduce_sum(tf.square(logits))
    for gradient in tape.gradient(loss, variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


@pytest.mark.parametrize("name", [name for name in NAMES if architecture(name).loads_weights])
def test_a_network_that_loads_anothers_weights_computes_the_same(name: str) -> None:
    network, other = perturbed(small(name)), perturbed(small(name), seed=8)
    other.load(network.weights())  # type: ignore[attr-defined]
    ids = some_ids(9, B)
    np.testing.assert_allclose(training_logits(other, ids), training_logits(network, ids), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_shape_is_what_the_notes_have_and_is_told_with_one_sentence(name: str) -> None:
    known = architecture(name)
    assert known.network.architecture == name
    assert known.description.endswith(".") and known.description.count(".") <= 2
    assert set(known.network_options) <= set(NetworkConfig.model_fields)
    assert set(known.training_options) <= set(TrainingConfig.model_fields)
    assert resolve_training(known.network, known.training) == known.training
    assert importlib.import_module(f"models.architectures.{name}").ARCHITECTURE is known


def test_an_unknown_architecture_is_answered_with_the_list() -> None:
    with pytest.raises(
        InvalidInput, match="no architecture 'gru'; there are stateful_lstm, three_char"
    ) as caught:
        architecture("gru")
    assert caught.value.code == "unknown_architecture"


@pytest.mark.parametrize(
    ("name", "part", "field"),
    [
        ("three_char", "network", "context"),
        ("onehot_rnn", "network", "embedding"),
        ("nth_char", "network", "layers"),
        ("sequence_rnn", "training", "window"),
        ("numpy_rnn", "training", "rows"),
        ("stateful_lstm", "network", "context"),
    ],
)
def test_an_option_the_architecture_does_not_have_is_refused_by_name(
    name: str, part: str, field: str
) -> None:
    given: dict[str, Any] = {"network": [], "training": []} | {part: [field]}
    with pytest.raises(InvalidInput) as caught:
        check_options(name, **given)
    assert caught.value.param == f"{part}.{field}"
    assert f"{name} has no such option" in caught.value.message


def test_networks_that_read_windows_alone_train_on_windows_as_long_as_they_see() -> None:
    network = small("sequence_rnn", context=5)
    assert resolve_training(network, architecture("sequence_rnn").training).window == 5


def test_some_rows_of_a_window_are_read_as_the_beginning_of_a_text() -> None:
    network = perturbed(small("simple_rnn"))
    ids, before = np.repeat(some_ids(2, 1), 400, 1), np.repeat(some_ids(7, 1), 400, 1)
    logits, after = network.logits(
        tf.constant(ids), tf.constant(before.T.astype("f")), seed=tf.constant([3, 4])
    )
    kinds, counts = np.unique(np.round(logits[0], 4), axis=0, return_counts=True)
    assert len(kinds) == 2
    assert 1 < counts.min() < 20  # of 400, one in 64 on average
    np.testing.assert_array_equal(after, np.concatenate([before, ids])[-7:].T)  # and not forgotten for that


def test_the_first_three_networks_are_the_notes_functions_of_keras_layers() -> None:
    model = perturbed(small("three_char")).keras_model()
    assert [i.shape for i in model.inputs] == [(None, 1)] * 3
    shared = [
        layer for layer in model.layers if isinstance(layer, (keras.layers.Dense, keras.layers.Embedding))
    ]
    assert sorted(layer.name for layer in shared) == ["dense", "embedding", "hidden", "input"]
