"""Networks with random weights for benchmarks, which cost the same as trained ones."""

import string
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.model_networks import FLOAT32_FILE, INT8_FILE
from nextchar.models.saved_model import Card, SavedModel, describe_files

CHARACTERS = "".join(sorted(set(string.printable) - set("\t\r\x0b\x0c")))
V = len(CHARACTERS) + 1
E = 64
COMPLETED = 20
"""Characters completed at each keystroke."""

Weights = dict[str, NDArray[np.float32]]


def random_weights(layers: int, units: int) -> Weights:
    """Return float32 weights as `nextchar.models.architectures.onnx_graph` wants them."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (V, E)}
    width = E
    for i in range(layers):
        shapes[f"lstm_{i}/kernel"] = (width, 4 * units)
        shapes[f"lstm_{i}/recurrent"] = (units, 4 * units)
        shapes[f"lstm_{i}/bias"] = (4 * units,)
        width = units
    shapes |= {"dense/kernel": (width, V), "dense/bias": (V,)}
    return {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def random_model(layers: int, units: int) -> SavedModel:
    """Return a saved model of random weights, float32 and int8."""
    return saved_model(layers, units, random_weights(layers, units))


def saved_model(
    layers: int, units: int, weights: Weights, more: Mapping[str, bytes] = MappingProxyType({})
) -> SavedModel:
    """Return a saved model named `random-<layers>x<units>`, float32 and int8, with `more` files."""
    files = {**more, FLOAT32_FILE: stateful_lstm_graph(weights)}
    files[INT8_FILE] = quantize_lstm(weights)
    card = Card(
        id=f"model_{layers}x{units}",
        name=f"random-{layers}x{units}",
        created_at=0,
        network=NetworkConfig(layers=layers, units=units, embedding=E),
        training=TrainingConfig(),
        characters=CHARACTERS,
        parameters=sum(w.size for w in weights.values()),
        files=describe_files(files),
    )
    return SavedModel(card, files.__getitem__)
