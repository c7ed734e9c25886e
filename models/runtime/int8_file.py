"""The file of an int8 network: quantizing the weights of an LSTM network, and reading them.

The file `model.int8.npz` holds plain arrays: for each matrix the int8 weights and a float32 scale per column,
such that weights * scale approximate the float32 weights. The input product of the first layer, bias
included, is precomputed in float32 for every id of the vocabulary, so that a step only looks it up.

    table (V, 4H)                                     embedding @ kernel + bias of layer 0
    lstm_{i}/kernel (H, 4H)   lstm_{i}/bias (4H,)     of layers from 1 on
    lstm_{i}/recurrent (H, 4H)   lstm_{i}/scale (4H,) the scale is that of kernel and recurrent together
    dense/kernel (H, V)   dense/scale (V,)   dense/bias (V,)

Gates are in Keras' order i, f, g, o.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.text.array_file import read_arrays

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]

_MAX_NUMBER = 1e30  # sums of products of larger ones may overflow


def quantize_lstm(weights: Mapping[str, Floats]) -> bytes:
    """Return the int8 file for weights named as `onnx_graph.stateful_lstm_graph` takes them."""
    layers = sum(name.startswith("lstm_") and name.endswith("/recurrent") for name in weights)
    arrays: Arrays = {
        "table": weights["embedding"] @ weights["lstm_0/kernel"] + weights["lstm_0/bias"],
        "dense/bias": weights["dense/bias"],
    }
    arrays["dense/kernel"], arrays["dense/scale"] = _quantized(weights["dense/kernel"])
    for i in range(layers):
        kernel, recurrent = weights[f"lstm_{i}/kernel"], weights[f"lstm_{i}/recurrent"]
        if i == 0:
            arrays["lstm_0/recurrent"], arrays["lstm_0/scale"] = _quantized(recurrent)
            continue
        both, arrays[f"lstm_{i}/scale"] = _quantized(np.concatenate([kernel, recurrent]))
        arrays[f"lstm_{i}/kernel"], arrays[f"lstm_{i}/recurrent"] = np.split(both, [len(kernel)])
        arrays[f"lstm_{i}/bias"] = weights[f"lstm_{i}/bias"]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _quantized(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return weights (K, N) as int8 and the scale of each column (N,)."""
    scale = np.abs(weights).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32)


def read_int8(data: bytes) -> Arrays:
    """Return the arrays in an .npz file. Raises ValueError; nothing is ever unpickled."""
    try:
        return read_arrays(data, max_bytes=len(data))
    except ValueError as error:
        raise ValueError(f"not a file of int8 weights: {error}") from error


def check_int8(arrays: Arrays) -> list[int]:
    """Return the units of each layer. Raises ValueError when the arrays do not make a network."""
    layers = sum(name.startswith("lstm_") and name.endswith("/recurrent") for name in arrays)
    names = {"table", "dense/kernel", "dense/scale", "dense/bias"}
    for i in range(layers):
        parts = ("kernel", "recurrent", "scale", "bias") if i else ("recurrent", "scale")
        names |= {f"lstm_{i}/{part}" for part in parts}
    if set(arrays) != names or not layers or arrays["table"].ndim != 2:
        raise ValueError(f"an int8 network of {layers} LSTM layers cannot have the arrays {sorted(arrays)}")
    if any(array.ndim == 0 for array in arrays.values()):
        raise ValueError("an array is a single number")
    vocabulary_size = len(arrays["table"])
    units: list[int] = []
    for i in range(layers):
        h = len(arrays[f"lstm_{i}/recurrent"])
        if i:
            _check_array(arrays, f"lstm_{i}/kernel", (units[-1], 4 * h), np.int8)
            _check_array(arrays, f"lstm_{i}/bias", (4 * h,), np.float32)
        else:
            _check_array(arrays, "table", (vocabulary_size, 4 * h), np.float32)
        _check_array(arrays, f"lstm_{i}/recurrent", (h, 4 * h), np.int8)
        _check_array(arrays, f"lstm_{i}/scale", (4 * h,), np.float32)
        units.append(h)
    _check_array(arrays, "dense/kernel", (units[-1], vocabulary_size), np.int8)
    _check_array(arrays, "dense/scale", (vocabulary_size,), np.float32)
    _check_array(arrays, "dense/bias", (vocabulary_size,), np.float32)
    return units


def _check_array(arrays: Arrays, name: str, shape: tuple[int, ...], kind: type) -> None:
    array = arrays[name]
    if array.shape != shape or array.dtype != kind or 0 in shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}")
    if kind is np.float32 and not (np.abs(array) < _MAX_NUMBER).all():
        raise ValueError(f"{name} has numbers that are not finite, or above {_MAX_NUMBER:g}")
