import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.session import Network
from tests.models.runtime.networks import quantize_lstm, random_weights


@pytest.fixture(scope="module", params=[([33], 1), ([64, 64], 1), ([40, 24], 2), ([40, 24], 0)])
def network(request: pytest.FixtureRequest) -> Network | LstmNetwork:
    """A graph on one or two threads of ONNX Runtime; with 0, an int8 network on our kernels."""
    units, threads = request.param
    weights = random_weights(61, 19, units)
    if not threads:
        return LstmNetwork(quantize_lstm(weights))
    return Network(stateful_lstm_graph(weights), threads=threads)


def test_step_by_step_is_bit_identical_to_one_pass(network: Network | LstmNetwork) -> None:
    ids = np.random.default_rng(0).integers(0, 61, (150, 1), np.int32)
    logits, state = network.step(ids, network.initial_state())
    for length in (1, 3, 7, 64):
        at, piecewise = network.initial_state(), []
        for start in range(0, 150, length):
            some, at = network.step(ids[start : start + length], at)
            piecewise.append(some)
        np.testing.assert_array_equal(np.concatenate(piecewise), logits)
        np.testing.assert_array_equal(at, state)


@pytest.mark.parametrize("rows", [2, 3, 5, 16, 31, 64, 67])
def test_batched_is_bit_identical_to_alone(network: Network | LstmNetwork, rows: int) -> None:
    random = np.random.default_rng(rows)
    ids = random.integers(0, 61, (3, rows), np.int32)
    start = random.uniform(-1, 1, (rows, network.S)).astype(np.float32)
    logits, state = network.step(ids, start)
    for row in range(rows):
        alone, alone_state = network.step(ids[:, row : row + 1].copy(), start[row : row + 1])
        np.testing.assert_array_equal(alone[:, 0], logits[:, row])
        np.testing.assert_array_equal(alone_state[0], state[row])


def test_bytes_that_are_not_a_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot load"):
        Network(b"not a graph")


def test_graph_of_other_inputs_is_refused() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with pytest.raises(ValueError, match="not a graph of this runtime"):
        Network(model.SerializeToString())


GRAPH = stateful_lstm_graph(random_weights(11, 4, [5, 6]))


@pytest.mark.parametrize("threads", [1, 2])
def test_small_steps_use_one_thread_that_does_not_spin(threads: int) -> None:
    network = Network(GRAPH, threads=threads)
    small, large = (s.get_session_options() for s in (network._session, network._large_session))
    assert (small.intra_op_num_threads, small.inter_op_num_threads) == (1, 1)
    assert (large.intra_op_num_threads, large.inter_op_num_threads) == (threads, 1)
    assert small.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (network._session is network._large_session) == (threads == 1), "the weights are in memory once"


def test_loading_a_graph_leaves_the_arithmetic_of_its_thread_alone() -> None:
    # Only the first session of a process has this effect.
    program = (
        "from nextchar.models.runtime.session import open_network\n"
        "from tests.models.runtime.networks import saved_model\n"
        "open_network('model.onnx', saved_model().file('model.onnx'))\n"
        "print(2.0**-1060 * 0.5 > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
