import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import quantize, stateful_lstm_graph
from nextchar.models.runtime.session import Network
from tests.models.runtime.networks import numpy_step, random_weights


def _network(units: list[int]) -> tuple[dict[str, np.ndarray], Network]:
    weights = random_weights(7, 3, units)
    return weights, Network(stateful_lstm_graph(weights))


@pytest.mark.parametrize("units", [[5], [5, 4], [4, 5, 3]])
def test_the_graph_equals_numpy(units: list[int]) -> None:
    weights, network = _network(units)
    random = np.random.default_rng(1)
    ids = random.integers(0, 7, (6, 2), np.int32)
    state = random.normal(size=(2, network.S)).astype(np.float32)

    logits, after = network.step(ids, state)

    expected_logits, expected_after = numpy_step(weights, ids, state)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    np.testing.assert_allclose(after, expected_after, atol=1e-5)
    assert logits.shape == (6, 2, network.V)
    assert after.shape == (2, network.S)


def test_only_steps_from_first_on_get_logits() -> None:
    _, network = _network([5, 4])
    ids = np.arange(6, dtype=np.int32).reshape(6, 1)
    logits, state = network.step(ids, network.initial_state())
    for first in range(7):
        last_logits, same_state = network.step(ids, network.initial_state(), first)
        assert last_logits.shape == (6 - first, 1, 7)
        np.testing.assert_array_equal(last_logits, logits[first:])
        np.testing.assert_array_equal(same_state, state)


def test_a_step_does_not_change_its_arguments() -> None:
    _, network = _network([5])
    ids, state = np.ones((2, 3), np.int32), network.initial_state(3)
    network.step(ids, state)
    assert not state.any()
    assert (ids == 1).all()


def test_the_int8_graph_is_smaller_than_the_float32_graph() -> None:
    graph = stateful_lstm_graph(random_weights(50, 32, [64, 64]))
    assert len(quantize(graph)) < 0.4 * len(graph)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("dense/bias", (8,)), ("lstm_0/kernel", (4, 20)), ("lstm_0/bias", (5,)), ("surplus", (1,))],
)
def test_an_error_names_the_weight_that_does_not_fit(name: str, shape: tuple[int, ...]) -> None:
    weights = random_weights(7, 3, [5])
    weights[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=name):
        stateful_lstm_graph(weights)


def test_a_missing_weight_is_an_error() -> None:
    weights = random_weights(7, 3, [5])
    del weights["lstm_0/recurrent"]
    with pytest.raises(ValueError, match="cannot have the weights"):
        stateful_lstm_graph(weights)
