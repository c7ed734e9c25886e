"""Conversion of weights to the ONNX graph that the runtime executes, and of LSTMs to its int8 form.

Of LSTMs (`stateful_lstm_graph`):

    ids (T, B) int32, state (B, S) float32, first () int64  ->  logits (T - first, B, V), state (B, S)

S = 2 * L * H: h1 | c1 | h2 | c2 | ... of all layers. T and B are dynamic. Steps before `first` get no logits,
so that prefill needs no memory for them; first = T gives none.

Of networks that see a window of C characters (`window_graph`):

    ids (T, B) int32, state (B, C - 1) float32, first () int64  ->  logits (T - first, B, V), state (B, C - 1)

The state is the last C - 1 ids, padded with zeros in front. Each prediction is computed from its own window,
all windows in parallel:

    h = undefined
    for j in 0 .. C - 1:  h = cell(table[id j], h), where id j is not 0

Id 0 is skipped, so a window that starts with zeros is a shorter text. There are two cells:

    with `recurrent/kernel`   relu(x + h U), initially relu(x)   Keras's SimpleRNN
    with `hidden/kernel`      x + tanh(h U + b), initially x     that of the notes; `hidden/bias` is b

This module needs `onnx`, which only the worker has.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]

OPSET = 17
IR_VERSION = 8  # the one released with opset 17, for old runtimes
_SLICE_END = np.iinfo(np.int64).max

# Weights that are constants of the graph as they are, with _ in place of /.
_CONSTANTS = ("embedding", "dense/kernel", "dense/bias", "hidden/kernel", "hidden/bias")


def stateful_lstm_graph(weights: Weights) -> bytes:
    """Return the serialized graph of an embedding, stacked LSTMs and a dense layer.

    `weights` holds float32 arrays: `embedding` (V, E), normalization folded in; for each layer i from 0
    `lstm_{i}/kernel` (E or H, 4H), `lstm_{i}/recurrent` (H, 4H), `lstm_{i}/bias` (4H,), gates in Keras's
    order i, f, g, o; `dense/kernel` (H, V), `dense/bias` (V,); optionally `hidden/kernel` (H, H) and
    `hidden/bias` (H,) of a dense layer with relu before the last.

    Raises:
        ValueError: a weight is missing or unexpected, or its shape does not match the others.
    """
    units = check_weights(weights)
    layers = len(units)
    constants = {name.replace("/", "_"): weights[name] for name in _CONSTANTS if name in weights}
    hidden = []
    if "hidden/kernel" in weights:
        hidden = [
            helper.make_node("MatMul", ["asked", "hidden_kernel"], ["hidden_product"], name="hidden"),
            helper.make_node("Add", ["hidden_product", "hidden_bias"], ["hidden_sum"]),
            helper.make_node("Relu", ["hidden_sum"], ["hidden"]),
        ]
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["x0"]),  # (T, B, E)
        helper.make_node("Unsqueeze", ["state", "zero"], ["state_1"]),  # (1, B, S)
        helper.make_node(
            "Split", ["state_1", "widths"], [f"{kind}{i}" for i in range(layers) for kind in "hc"], axis=2
        ),
    ]
    for i in range(layers):
        for name, value in _layer_constants(weights, i).items():
            constants[f"{name}{i}"] = value
        nodes.append(
            helper.make_node(
                "LSTM",
                [f"x{i}", f"w{i}", f"r{i}", f"b{i}", "", f"h{i}", f"c{i}"],
                [f"y{i}", f"next_h{i}", f"next_c{i}"],
                name=f"lstm_{i}",
                hidden_size=units[i],
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"y{i}", "one"], [f"x{i + 1}"]))  # (T, B, H)
    nodes += [
        helper.make_node("Reshape", ["first", "one"], ["starts"]),
        helper.make_node("Slice", [f"x{layers}", "starts", "end", "zero"], ["asked"]),  # (T - first, B, H)
        *hidden,
        helper.make_node(
            "MatMul", ["hidden" if hidden else "asked", "dense_kernel"], ["product"], name="dense"
        ),
        helper.make_node("Add", ["product", "dense_bias"], ["logits"]),
        helper.make_node(
            "Concat", [f"next_{kind}{i}" for i in range(layers) for kind in "hc"], ["next_1"], axis=2
        ),
        helper.make_node("Squeeze", ["next_1", "zero"], ["next_state"]),
    ]
    integers = {
        "zero": [0],
        "one": [1],
        "end": [_SLICE_END],
        "widths": [width for h in units for width in (h, h)],
    }
    return _serialized(
        "stateful_lstm",
        nodes,
        constants,
        integers,
        state_size=2 * sum(units),
        vocabulary_size=weights["dense/bias"].shape[0],
    )


def _serialized(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    constants: Weights,
    integers: Mapping[str, int | Sequence[int]],
    *,
    state_size: int,
    vocabulary_size: int,
) -> bytes:
    """Return a validated graph with the runtime's inputs and outputs.

    `constants` are stored as float32, `integers` as int64.
    """
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(v, np.float32), k) for k, v in constants.items()
    ]
    initializers += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in integers.items()]
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, ["T", "B"]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", state_size]),
            helper.make_tensor_value_info("first", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["asked", "B", vocabulary_size]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["B", state_size]),
        ],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="nextchar"
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def stateful_lstm_weights(graph: bytes) -> Weights:
    """Return the weights in a graph of `stateful_lstm_graph`. Raises ValueError if it is another graph."""
    try:
        initializers = onnx.load_from_string(graph).graph.initializer
        constants = {i.name: numpy_helper.to_array(i) for i in initializers}
    except Exception as error:  # protobuf raises many types
        raise ValueError(f"not an ONNX graph: {error}") from error
    if "embedding" not in constants or "dense_kernel" not in constants or "w0" not in constants:
        raise ValueError("not the graph of a stateful_lstm")
    constant_of = {name: name.replace("/", "_") for name in _CONSTANTS}
    weights = {name: constants[own] for name, own in constant_of.items() if own in constants}
    for i in range(sum(name[0] == "w" and name[1:].isdecimal() for name in constants)):
        weights[f"lstm_{i}/kernel"] = _keras_gates(constants[f"w{i}"][0])
        weights[f"lstm_{i}/recurrent"] = _keras_gates(constants[f"r{i}"][0])
        bias = constants[f"b{i}"].reshape(2, -1).sum(0)
        weights[f"lstm_{i}/bias"] = _keras_gates(bias[:, None])[0]
    check_weights(weights)
    return weights


def quantize(graph: bytes) -> bytes:
    """Return the graph with int8 weights in its LSTM and dense layers; the embedding stays float32.

    ONNX Runtime's dynamic quantization has one activation scale per call, so results may vary with the other
    rows of a batch by a rounding error.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _QuietRootLogger():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            onnx.load_from_string(graph),
            path,
            op_types_to_quantize=["LSTM", "MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits: ONNX Runtime's products of 8 bits saturate on processors with AVX2 but without VNNI.
            reduce_range=True,
        )
        return path.read_bytes()


def check_weights(weights: Weights) -> list[int]:
    """Return the units of each layer. Raises ValueError if the weights are not those of a network."""
    layers = sum(name.startswith("lstm_") and name.endswith("/kernel") for name in weights)
    names = {"embedding", "dense/kernel", "dense/bias"}
    names |= {f"lstm_{i}/{part}" for i in range(layers) for part in ("kernel", "recurrent", "bias")}
    hidden = {"hidden/kernel", "hidden/bias"}
    if set(weights) not in (names, names | hidden) or not layers:
        raise ValueError(f"a network of {layers} LSTM layers cannot have the weights {sorted(weights)}")
    vocabulary_size, width = weights["embedding"].shape
    units = []
    for i in range(layers):
        h = weights[f"lstm_{i}/recurrent"].shape[0]
        _check_shape(weights, f"lstm_{i}/kernel", (width, 4 * h))
        _check_shape(weights, f"lstm_{i}/recurrent", (h, 4 * h))
        _check_shape(weights, f"lstm_{i}/bias", (4 * h,))
        units.append(h)
        width = h
    if hidden <= set(weights):
        _check_shape(weights, "hidden/kernel", (width, width))
        _check_shape(weights, "hidden/bias", (width,))
    _check_shape(weights, "dense/kernel", (width, vocabulary_size))
    _check_shape(weights, "dense/bias", (vocabulary_size,))
    return units


def _check_shape(weights: Weights, name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a weight has another shape."""
    if weights[name].shape != shape:
        raise ValueError(f"weight {name} has shape {weights[name].shape}, expected {shape}")


def _layer_constants(weights: Weights, i: int) -> dict[str, NDArray[np.float32]]:
    bias = _onnx_gates(weights[f"lstm_{i}/bias"][None])
    return {
        "w": _onnx_gates(weights[f"lstm_{i}/kernel"])[None],  # (1, 4H, E or H)
        "r": _onnx_gates(weights[f"lstm_{i}/recurrent"])[None],  # (1, 4H, H)
        "b": np.concatenate([bias[:, 0], np.zeros_like(bias[:, 0])])[None],  # (1, 8H); ONNX has two biases
    }


def _onnx_gates(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert (N, 4H) in Keras's gate order i, f, g, o to (4H, N) in that of ONNX: i, o, f, g."""
    i, f, g, o = np.split(kernel, 4, axis=1)
    return np.concatenate([i, o, f, g], axis=1).T


def _keras_gates(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert (4H, N) in ONNX's gate order to (N, 4H) in Keras's: the inverse of `_onnx_gates`."""
    i, o, f, g = np.split(kernel.T, 4, axis=1)
    return np.concatenate([i, f, g, o], axis=1)


class _QuietRootLogger:
    """Suppresses the quantizer's warning about a pre-processing step that this graph does not need."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._level)


_COMMON = {"table", "dense/kernel", "dense/bias"}


def window_graph(weights: Weights, *, context: int) -> bytes:
    """Return the serialized graph for windows of `context` characters.

    `weights` holds float32 arrays: `table` (V, H), the projected input of each character; `recurrent/kernel`
    (H, H), or `hidden/kernel` (H, H) and `hidden/bias` (H,); `dense/kernel` (H, V), `dense/bias` (V,).

    Raises:
        ValueError: a weight is missing or unexpected, or its shape does not match the others.
    """
    vocabulary_size, units = _check_window_weights(weights)
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
        "end": [_SLICE_END],
        "last_begins": [1 - context],
        **{f"offset_{j}": [j] for j in range(context)},
    }
    return _serialized(
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


def _check_window_weights(weights: Weights) -> tuple[int, int]:
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
        _check_shape(weights, name, shapes[name])
    return vocabulary_size, units
