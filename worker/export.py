"""A trained network -> the files of a saved model."""

import tempfile
from pathlib import Path

from models.architectures.stateful_lstm import StatefulLSTM
from models.runtime.graph import stateful_lstm_graph


def graph_of(network: StatefulLSTM) -> bytes:
    """Return the ONNX graph of the network as it is now."""
    return stateful_lstm_graph(network.weights())


def saved_files(network: StatefulLSTM) -> dict[str, bytes]:
    """Return the contents of model.onnx and model.keras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        network.keras_model().save(path)
        return {"model.onnx": graph_of(network), "model.keras": path.read_bytes()}
