"""Conversion of the weights of a window network to the ONNX graph that the runtime executes.

    ids (T, B) int32, state (B, C - 1) float32, first () int64  ->  logits (T - first, B, V), state (B, C - 1)

The state is the last C - 1 ids, padded with zeros in front. Each prediction is computed from its own window
of C characters, all windows in parallel:

    h = undefined
    for j in 0 .. C - 1:  h = cell(table[id j], h), where id j is not 0

Id 0 is skipped, so a window that starts with zeros is a shorter text. There are two cells:

    with `recurrent/kernel`   relu(x + h U), initially relu(x)   Keras's SimpleRNN
    with `hidden/kernel`      x + tanh(h U + b), initially x     that of the notes; `hidden/bias` is b

This module needs `onnx`, which only the worker has.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nextchar.models.architectures.onnx_graph import SLICE_END, check_shape, serialized

Weights = Mapping[str, NDArray[np.float32]]

_COMMON = {"table", "dense/kernel", "dense/bias"}


def window_graph(weights: Weights, *, context: int) -> bytes:
    """Return the serialized graph for windows of `context` characters.

    `weights` holds float32 arrays: `table` (V, H), the projected input of each character; `recurrent/kernel`
    (H, H), or `hidden/kernel` (H, H) and `hidden/bias` (H,); `dense/kernel` (H, V), `dense/bias` (V,).

    Raises:
        ValueError: a weight is missing or unexpected, or its shape does not match the others.
    """
    vocabulary_size, units = _check_weights(weights)
    cell = _hidden_cell if "hidden/kernel" in weights else _recurrent_cell
    nodes = [
        helper.make_node("Cast", ["state"], ["before_rows"], to=TensorProto.INT32),
        helper.make_node("Transpose", ["before_rows"], ["before"]),  # (C - 1, B)
        helper.make_node("Concat", ["before", "ids"], ["text"], axis=0),  # (C - 1 + T, B)
        helper.make_node("Slice", ["text", "last_begins", "end", "axis_0"], ["after"]),
        helper.make_node("Cast", ["after"], ["after_floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["after_floats"], ["next_state"]),
        helper.make_node("Reshape", ["first", "one_number"], ["begin_0"]),
        helper.make_node("Shape", ["ids"], ["steps"], start=0, end=1),
        helper.make_node("Slice", ["ids", "begin_0", "steps", "axis_0"], ["asked"]),  # (n, B), n = T - first
        helper.make_node("Unsqueeze", ["asked", "last_axis"], ["asked_1"]),
        helper.make_node("Cast", ["asked_1"], ["asked_floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["asked_floats", "no_units"], ["h_0"]),  # (n, B, H) zeros
    ]
    for j in range(context):  # the j-th character of all n * B windows
        nodes += _character(j)
        nodes += cell(j)
        nodes.append(helper.make_node("Where", [f"known_{j}", f"new_{j}", f"h_{j}"], [f"h_{j + 1}"]))
    nodes += [
        helper.make_node("MatMul", [f"h_{context}", "dense_kernel"], ["product"], name="dense"),
        helper.make_node("Add", ["product", "dense_bias"], ["logits"]),
    ]
    constants = {name.replace("/", "_"): value for name, value in weights.items()}
    constants["no_units"] = np.zeros(units, np.float32)
    integers = {
        "axis_0": [0],
        "last_axis": [2],
        "one_number": [1],
        "end": [SLICE_END],
        "last_begins": [1 - context],
        **{f"offset_{j}": [j] for j in range(context)},
    }
    return serialized(
        "window",
        nodes,
        constants,
        integers,
        state_size=context - 1,
        vocabulary_size=vocabulary_size,
    )


def _character(j: int) -> list[onnx.NodeProto]:
    """Return nodes for x_j (n, B, H) and known_j (n, B, 1) of the j-th character of each window."""
    return [
        helper.make_node("Add", ["begin_0", f"offset_{j}"], [f"begins_{j}"]),
        helper.make_node("Add", ["steps", f"offset_{j}"], [f"ends_{j}"]),
        helper.make_node("Slice", ["text", f"begins_{j}", f"ends_{j}", "axis_0"], [f"ids_{j}"]),  # (n, B)
        helper.make_node("Gather", ["table", f"ids_{j}"], [f"x_{j}"]),
        helper.make_node("Unsqueeze", [f"ids_{j}", "last_axis"], [f"column_{j}"]),
        helper.make_node("Cast", [f"column_{j}"], [f"known_{j}"], to=TensorProto.BOOL),  # whether not 0
    ]


def _recurrent_cell(j: int) -> list[onnx.NodeProto]:
    """Return nodes for new_j = relu(x_j + h_j U)."""
    return [
        helper.make_node("MatMul", [f"h_{j}", "recurrent_kernel"], [f"passed_{j}"], name=f"recurrent_{j}"),
        helper.make_node("Add", [f"x_{j}", f"passed_{j}"], [f"sum_{j}"]),
        helper.make_node("Relu", [f"sum_{j}"], [f"new_{j}"]),
    ]


def _hidden_cell(j: int) -> list[onnx.NodeProto]:
    """Return nodes for new_j = x_j + tanh(h_j U + b), or x_j if h_j is undefined."""
    if j == 0:
        return [
            helper.make_node("Identity", ["x_0"], ["new_0"]),
            helper.make_node("Identity", ["known_0"], ["begun_1"]),
        ]
    return [
        helper.make_node("MatMul", [f"h_{j}", "hidden_kernel"], [f"product_{j}"], name=f"hidden_{j}"),
        helper.make_node("Add", [f"product_{j}", "hidden_bias"], [f"sum_{j}"]),
        helper.make_node("Tanh", [f"sum_{j}"], [f"passed_{j}"]),
        helper.make_node("Add", [f"x_{j}", f"passed_{j}"], [f"both_{j}"]),
        helper.make_node("Where", [f"begun_{j}", f"both_{j}", f"x_{j}"], [f"new_{j}"]),
        helper.make_node("Or", [f"begun_{j}", f"known_{j}"], [f"begun_{j + 1}"]),
    ]


def _check_weights(weights: Weights) -> tuple[int, int]:
    """Return V and H. Raises ValueError if the weights are not those of a window network."""
    recurrent, hidden = _COMMON | {"recurrent/kernel"}, _COMMON | {"hidden/kernel", "hidden/bias"}
    if set(weights) not in (recurrent, hidden):
        raise ValueError(f"a window network cannot have the weights {sorted(weights)}")
    vocabulary_size, units = weights["table"].shape
    shapes = {
        "recurrent/kernel": (units, units),
        "hidden/kernel": (units, units),
        "hidden/bias": (units,),
        "dense/kernel": (units, vocabulary_size),
        "dense/bias": (vocabulary_size,),
    }
    for name in set(weights) - {"table"}:
        check_shape(weights, name, shapes[name])
    return vocabulary_size, units
