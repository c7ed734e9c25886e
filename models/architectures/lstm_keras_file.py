"""Writes the `.keras` file of a stateful LSTM from its weights, as Keras would, without loading Keras.

Importing TensorFlow and Keras takes longer than a short training. The file is a ZIP archive: `config.json`
has the layers and how they are connected, `model.weights.h5` their weights in HDF5 groups, which are named by
the layers' classes, and `metadata.json` Keras's version. `shared_object_id`, by which Keras loads equal
initializers as one object, is left out.
"""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import h5py
import numpy as np

from nextchar.models.architectures.spec import Weights
from nextchar.models.kernels.lstm_weights import EPSILON

_Config = dict[str, Any]
_Shape = list[int | None]  # None: any number of rows, of steps


def lstm_keras_file(name: str, weights: Weights) -> bytes:
    """Return the contents of a `.keras` file of stock layers.

    Inputs: ids (B, T) int32, then h and c (B, H) of each layer. Outputs: logits (B, T, V), then h and c of
    each layer after the last step.

    Args:
        name: of the model.
        weights: named as by `models.kernels.lstm_weights.LSTMShape`, of all four gates; and the `mean` and
            `variance` (E,) of the embedding over the training text.
    """
    layers = sum(key.endswith("/recurrent") for key in weights)
    contents = io.BytesIO()
    with h5py.File(contents, "w") as file:
        for path, layer, keys in _groups(name, layers, has_hidden="hidden/kernel" in weights):
            group = file.create_group(f"{path}/vars")
            group.attrs["name"] = layer
            for i, key in enumerate(keys):
                group[str(i)] = np.asarray(weights[key], np.float32)
    metadata = {"keras_version": version("keras"), "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("metadata.json", json.dumps(metadata))
        files.writestr("config.json", json.dumps(_model(name, layers, weights)))
        files.writestr("model.weights.h5", contents.getvalue())
    return archive.getvalue()


def _groups(name: str, layers: int, *, has_hidden: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the path of each group, its layer's name, and the keys of its weights in order."""
    yield "", name, ()
    for i, layer in enumerate(("ids", *(f"{letter}_{k}" for k in range(layers) for letter in "hc"))):
        yield f"layers/{_numbered('input_layer', i)}", layer, ()
    yield "layers/embedding", "embedding", ("embedding",)
    yield "layers/batch_normalization", "normalization", ("gamma", "beta", "mean", "variance")
    for i in range(layers):
        path, layer = f"layers/{_numbered('lstm', i)}", f"lstm_{i}"
        yield path, layer, ()
        yield (
            f"{path}/cell",
            "lstm_cell",
            tuple(f"{layer}/{part}" for part in ("kernel", "recurrent", "bias")),
        )
    if has_hidden:
        yield "layers/time_distributed", "hidden_at_every_step", ()
        yield "layers/time_distributed/layer", "hidden", ("hidden/kernel", "hidden/bias")
    yield "layers/dense", "dense", ("dense/kernel", "dense/bias")


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _model(name: str, layers: int, weights: Weights) -> _Config:
    (vocabulary_size, embedding), units = weights["embedding"].shape, len(weights["lstm_0/recurrent"])
    state: _Shape = [None, units]
    x = _tensor("ids", [None, None], dtype="int32")
    nodes = [_input("ids", [None, None], dtype="int32"), _embedding(x, vocabulary_size, embedding)]
    x = _tensor("embedding", [None, None, embedding])
    nodes.append(_normalization(x, embedding))
    x = _tensor("normalization", [None, None, embedding])
    inputs, outputs = ["ids"], [["dense", 0, 0]]
    for i in range(layers):
        layer, h, c = f"lstm_{i}", f"h_{i}", f"c_{i}"
        nodes += [_input(h, state), _input(c, state)]
        nodes.append(_lstm(layer, x, [_tensor(h, state), _tensor(c, state)], units))
        x = _tensor(layer, [None, None, units])
        inputs += [h, c]
        outputs += [[layer, 0, 1], [layer, 0, 2]]
    if "hidden/kernel" in weights:
        nodes.append(_hidden(x, units))
        x = _tensor("hidden_at_every_step", [None, None, units])
    dense = _layer("Dense", "dense", _dense(vocabulary_size, "linear"), [None, None, units])
    nodes.append(_connected(dense, x))
    config = {
        "name": name,
        "trainable": True,
        "layers": nodes,
        "input_layers": [[one, 0, 0] for one in inputs],
        "output_layers": outputs,
    }
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": config,
        "registered_name": "Functional",
        "build_config": {"input_shape": None},
        "compile_config": {},
    }


def _input(name: str, shape: _Shape, *, dtype: str = "float32") -> _Config:
    config = {"batch_shape": shape, "dtype": dtype, "sparse": False, "ragged": False, "name": name}
    layer = _object("keras.layers", "InputLayer", {**config, "optional": False})
    return {**layer, "name": name, "inbound_nodes": []}


def _embedding(x: _Config, vocabulary_size: int, size: int) -> _Config:
    config = {
        "input_dim": vocabulary_size,
        "output_dim": size,
        "embeddings_initializer": _initializer("RandomUniform", seed=None, minval=-0.05, maxval=0.05),
        "embeddings_regularizer": None,
        "activity_regularizer": None,
        "embeddings_constraint": None,
        "mask_zero": False,
        "quantization_config": None,
    }
    return _connected(_layer("Embedding", "embedding", config, [None, None]), x)


def _normalization(x: _Config, size: int) -> _Config:
    config = {
        "axis": -1,
        "momentum": 0.99,
        "epsilon": EPSILON,
        "center": True,
        "scale": True,
        "beta_initializer": _initializer("Zeros"),
        "gamma_initializer": _initializer("Ones"),
        "moving_mean_initializer": _initializer("Zeros"),
        "moving_variance_initializer": _initializer("Ones"),
        "beta_regularizer": None,
        "gamma_regularizer": None,
        "beta_constraint": None,
        "gamma_constraint": None,
        "synchronized": False,
        "renorm": False,
        "renorm_clipping": None,
        "renorm_momentum": 0.99,
    }
    layer = _layer("BatchNormalization", "normalization", config, [None, None, size])
    return _connected(layer, x, mask=None)


def _lstm(name: str, x: _Config, states: list[_Config], units: int) -> _Config:
    config = {
        "return_sequences": True,
        "return_state": True,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "zero_output_for_mask": False,
        "units": units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "kernel_initializer": _initializer("GlorotUniform", seed=None, input_axes=None, output_axes=None),
        "recurrent_initializer": _initializer("Orthogonal", seed=None, gain=1.0),
        "bias_initializer": _initializer("Zeros"),
        "unit_forget_bias": True,
        "kernel_regularizer": None,
        "recurrent_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "recurrent_constraint": None,
        "bias_constraint": None,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "seed": None,
    }
    shapes = {"sequences_shape": x["config"]["shape"], "initial_state_shape": [[None, units]] * 2}
    layer = _layer("LSTM", name, config, [])
    return _connected({**layer, "build_config": {"shapes_dict": shapes}}, x, initial_state=states)


def _hidden(x: _Config, units: int) -> _Config:
    """Return a dense relu layer that is applied to each step."""
    layer = _layer("Dense", "hidden", _dense(units, "relu"), [None, units])
    every_step = _layer("TimeDistributed", "hidden_at_every_step", {"layer": layer}, [None, None, units])
    return _connected(every_step, x, mask=None)


def _dense(units: int, activation: str) -> _Config:
    return {
        "units": units,
        "activation": activation,
        "use_bias": True,
        "kernel_initializer": _initializer("GlorotUniform", seed=None, input_axes=None, output_axes=None),
        "bias_initializer": _initializer("Zeros"),
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
        "quantization_config": None,
    }


def _layer(class_name: str, name: str, config: _Config, shape: _Shape) -> _Config:
    dtype = _object("keras", "DTypePolicy", {"name": "float32"})
    layer = _object("keras.layers", class_name, {"name": name, "trainable": True, "dtype": dtype, **config})
    return {**layer, "build_config": {"input_shape": shape}}


def _connected(layer: _Config, x: _Config, **inputs: Any) -> _Config:
    node = {"args": [x], "kwargs": inputs}
    return {**layer, "name": layer["config"]["name"], "inbound_nodes": [node]}


def _tensor(layer: str, shape: _Shape, *, dtype: str = "float32") -> _Config:
    config = {"shape": shape, "dtype": dtype, "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def _initializer(class_name: str, **config: Any) -> _Config:
    return _object("keras.initializers", class_name, config)


def _object(module: str, class_name: str, config: _Config) -> _Config:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}
