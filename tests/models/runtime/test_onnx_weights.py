"""The weights of graphs, read without the package onnx; `onnx` is the reference."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nextchar.models.architectures.onnx_graph import quantize, stateful_lstm_graph
from nextchar.models.runtime.model_networks import non_finite_weight
from tests.models.runtime.networks import random_weights

WEIGHTS = random_weights(7, 3, [4, 5])
GRAPH = stateful_lstm_graph(WEIGHTS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_any_number_of_any_weight_is_found(name: str, value: float) -> None:
    weights = WEIGHTS | {name: WEIGHTS[name].copy()}
    weights[name].flat[-1] = value
    graph = onnx.load_from_string(stateful_lstm_graph(weights))
    expected = [w.name for w in graph.graph.initializer if not np.isfinite(numpy_helper.to_array(w)).all()]
    assert [non_finite_weight(graph.SerializeToString())] == expected


def test_finite_weights_in_any_form_are_accepted() -> None:
    assert non_finite_weight(GRAPH) is None
    assert non_finite_weight(quantize(GRAPH)) is None


def test_weights_as_float16_and_as_lists_are_read() -> None:
    graph = onnx.load_from_string(GRAPH)
    half = numpy_helper.from_array(np.array([1, np.inf], np.float16), "half")
    listed = helper.make_tensor("listed", TensorProto.FLOAT, [2], [1.0, np.nan])
    assert listed.float_data and not listed.raw_data
    for weight in (half, listed):
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        changed.graph.initializer.append(weight)
        assert non_finite_weight(changed.SerializeToString()) == weight.name


def test_what_is_no_message_is_refused() -> None:
    for data in (GRAPH[:-10], b"\x3a", b"\x3b\x00", b"\x3a" + b"\xff" * 12):
        with pytest.raises(ValueError, match=r"field|number"):
            non_finite_weight(data)
