"""Exports a trained network to the files of a saved model."""

import tempfile
from pathlib import Path
from typing import cast

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.onnx_graph import quantize, stateful_lstm_weights
from nextchar.models.architectures.spec import Differentiable, Trainable
from nextchar.models.runtime.int8_file import quantize_lstm


def graph_of(network: Trainable) -> bytes:
    """Return the ONNX graph of the network with its current weights."""
    return architecture(network.config.architecture).graph(network.config, network.weights())


def saved_files(network: Trainable) -> dict[str, bytes]:
    """Return the contents of model.onnx and model.keras."""
    return {"model.onnx": graph_of(network), "model.keras": keras_file(network)}


def keras_file(network: Trainable) -> bytes:
    """Return the contents of a `.keras` file of stock layers. Only networks in Keras load Keras."""
    if isinstance(network, KernelLSTM):
        return network.keras_file()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        cast(Differentiable, network).keras_model().save(path)
        return path.read_bytes()


def int8_file(graph: bytes) -> tuple[str, bytes]:
    """Return the name and contents of a model.onnx in int8, for the kernels if they support the network."""
    try:
        weights = stateful_lstm_weights(graph)
    except ValueError:  # another architecture
        return "model.int8.onnx", quantize(graph)
    if "hidden/kernel" in weights:  # a layer that the kernels do not support
        return "model.int8.onnx", quantize(graph)
    return "model.int8.npz", quantize_lstm(weights)
