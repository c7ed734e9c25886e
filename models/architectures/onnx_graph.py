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
import onnx.parser
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, numpy_helper

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
    constants = {name.replace("/", "_"): weights[name] for name in _CONSTANTS if name in weights}
    has_hidden, lstms = "hidden/kernel" in weights, ""
    for i, h in enumerate(units):
        constants |= _layer_constants(weights, i)
        inputs = f"x{i}, w{i}, r{i}, b{i}, , h{i}, c{i}"
        lstms += f"""
            [lstm_{i}] y{i}, next_h{i}, next_c{i} = LSTM <hidden_size = {h}> ({inputs})
            x{i + 1} = Squeeze (y{i}, one)  # (T, B, H)"""
    nodes = f"""
            x0 = Gather (embedding, ids)  # (T, B, E)
            state_1 = Unsqueeze (state, zero)  # (1, B, S)
            {_all("h{0}, c{0}", units)} = Split <axis = 2> (state_1, widths)
            {lstms}
            starts = Reshape (first, one)
            asked = Slice (x{len(units)}, starts, end, zero)  # (T - first, B, H)
            {_HIDDEN if has_hidden else ""}
            [dense] product = MatMul ({"hidden" if has_hidden else "asked"}, dense_kernel)
            logits = Add (product, dense_bias)
            next_1 = Concat <axis = 2> ({_all("next_h{0}, next_c{0}", units)})
            next_state = Squeeze (next_1, zero)"""
    integers: dict[str, ArrayLike] = {"zero": [0], "one": [1], "end": [_SLICE_END]}
    integers["widths"] = np.repeat(units, 2)
    size = 2 * sum(units), len(weights["dense/bias"])
    return _serialized("stateful_lstm", nodes, constants, integers, *size)


_HIDDEN = """
            [hidden] hidden_product = MatMul (asked, hidden_kernel)
            hidden_sum = Add (hidden_product, hidden_bias)
            hidden = Relu (hidden_sum)"""


def _all(names: str, layers: Sequence[int]) -> str:
    return ", ".join(names.format(i) for i in range(len(layers)))


def _serialized(
    name: str,
    nodes: str,
    constants: Weights,
    integers: Mapping[str, ArrayLike],
    state_size: int,
    vocabulary_size: int,
) -> bytes:
    """Return a validated graph with the runtime's inputs and outputs.

    `nodes` are in ONNX's textual syntax. `constants` are stored as float32, `integers` as int64.
    """
    model = onnx.parser.parse_model(
        f"""<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "nextchar">
        {name} (int32[T, B] ids, float[B, {state_size}] state, int64 first)
        => (float[asked, B, {vocabulary_size}] logits, float[B, {state_size}] next_state) {{{nodes}
        }}"""
    )
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in constants.items()}
    arrays |= {k: np.array(v, np.int64) for k, v in integers.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, k) for k, array in arrays.items())
    for node in model.graph.node:
        node.ClearField("domain")  # the same bytes as without it
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
    if weights[name].shape != shape:
        raise ValueError(f"weight {name} has shape {weights[name].shape}, expected {shape}")


def _layer_constants(weights: Weights, i: int) -> dict[str, NDArray[np.float32]]:
    bias = _onnx_gates(weights[f"lstm_{i}/bias"][None])
    return {
        f"w{i}": _onnx_gates(weights[f"lstm_{i}/kernel"])[None],  # (1, 4H, E or H)
        f"r{i}": _onnx_gates(weights[f"lstm_{i}/recurrent"])[None],  # (1, 4H, H)
        f"b{i}": np.concatenate([bias[:, 0], np.zeros_like(bias[:, 0])])[
            None
        ],  # (1, 8H); ONNX has two biases
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
    cell = _HIDDEN_CELL if "hidden/kernel" in weights else _RECURRENT_CELL
    first_cell = _FIRST_CELL if "hidden/kernel" in weights else cell
    # The j-th character of all n * B windows, n = T - first.
    windows = "".join(
        (_CHARACTER + (cell if j else first_cell) + _AFTER).format(j=j, next=j + 1) for j in range(context)
    )
    nodes = f"""
            before_rows = Cast <to = {TensorProto.INT32}> (state)
            before = Transpose (before_rows)  # (C - 1, B)
            text = Concat <axis = 0> (before, ids)  # (C - 1 + T, B)
            after = Slice (text, last_begins, end, axis_0)
            after_floats = Cast <to = {TensorProto.FLOAT}> (after)
            next_state = Transpose (after_floats)
            begin_0 = Reshape (first, one_number)
            steps = Shape <end = 1, start = 0> (ids)
            asked = Slice (ids, begin_0, steps, axis_0)  # (n, B)
            asked_1 = Unsqueeze (asked, last_axis)
            asked_floats = Cast <to = {TensorProto.FLOAT}> (asked_1)
            h_0 = Mul (asked_floats, no_units)  # (n, B, H) zeros
            {windows}
            [dense] product = MatMul (h_{context}, dense_kernel)
            logits = Add (product, dense_bias)"""
    constants = {name.replace("/", "_"): value for name, value in weights.items()}
    constants["no_units"] = np.zeros(units, np.float32)
    integers = {"axis_0": [0], "last_axis": [2], "one_number": [1], "end": [_SLICE_END]}
    integers |= {"last_begins": [1 - context], **{f"offset_{j}": [j] for j in range(context)}}
    return _serialized("window", nodes, constants, integers, context - 1, vocabulary_size)


_CHARACTER = f"""
            begins_{{j}} = Add (begin_0, offset_{{j}})
            ends_{{j}} = Add (steps, offset_{{j}})
            ids_{{j}} = Slice (text, begins_{{j}}, ends_{{j}}, axis_0)  # (n, B)
            x_{{j}} = Gather (table, ids_{{j}})  # (n, B, H)
            column_{{j}} = Unsqueeze (ids_{{j}}, last_axis)
            known_{{j}} = Cast <to = {TensorProto.BOOL}> (column_{{j}})  # (n, B, 1), whether not 0"""
_RECURRENT_CELL = """
            [recurrent_{j}] passed_{j} = MatMul (h_{j}, recurrent_kernel)
            sum_{j} = Add (x_{j}, passed_{j})
            new_{j} = Relu (sum_{j})"""
_FIRST_CELL = """
            new_{j} = Identity (x_{j})
            begun_{next} = Identity (known_{j})"""
_HIDDEN_CELL = """
            [hidden_{j}] product_{j} = MatMul (h_{j}, hidden_kernel)
            sum_{j} = Add (product_{j}, hidden_bias)
            passed_{j} = Tanh (sum_{j})
            both_{j} = Add (x_{j}, passed_{j})
            new_{j} = Where (begun_{j}, both_{j}, x_{j})
            begun_{next} = Or (begun_{j}, known_{j})"""
_AFTER = """
            h_{next} = Where (known_{j}, new_{j}, h_{j})"""


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
