"""Evaluates a network while it trains, and keeps the weights that are best on held-out text.

Exports a trained network to the files of a saved model.
"""

import tempfile
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.onnx_graph import quantize, stateful_lstm_weights
from nextchar.models.architectures.spec import Differentiable, Trainable
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.session import Network
from nextchar.worker.evaluation import bits_per_character, sample
from nextchar.worker.prepared_text import Text
from nextchar.worker.schedule import RunState


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


PATIENCE = 2  # evaluations in a row without a new best: the network overfits

_SAMPLE_CHARACTERS = 240
_THREADS = 2
_ROWS, _WARM_UP = 32, 64  # see nextchar.worker.evaluation


class Evaluator:
    """Measures held-out bits per character, and writes samples of text.

    Attributes:
        best: the weights of the best evaluation so far, in the order of the network's variables.
        sample: the newest sample.
    """

    def __init__(self, network: Trainable, text: Text, *, seed: int) -> None:
        self.best: list[NDArray[np.float32]] | None = None
        self.sample = ""
        self._network, self._text, self._seed = network, text, seed
        self._graph: Network

    def evaluate(self, state: RunState) -> float:
        """Return the held-out bits per character of the network now; note in `state` if they are the best.

        If they are not finite, nothing is noted: the run has diverged.
        """
        self._graph = Network(graph_of(self._network), threads=_THREADS)
        held_out = self._text.selection[: state.evaluation_characters]
        bits = bits_per_character(
            self._graph, held_out, before=self._text.train, rows=_ROWS, warm_up=_WARM_UP
        )
        if not np.isfinite(bits):
            return bits
        state.evaluations_since_best += bits > state.best_bits
        if bits < state.best_bits or self.best is None:
            state.best_bits, state.best_step, state.evaluations_since_best = bits, state.step, 0
            self.best = [v.numpy() for v in self._network.variables]
        state.evaluations += 1
        return bits

    def write_sample(self) -> str:
        """Return text that the network, as of the last evaluation, writes after the training text."""
        self.sample = sample(
            self._graph,
            self._text.vocabulary,
            prompt=self._text.prompt,
            characters=_SAMPLE_CHARACTERS,
            seed=self._seed,
        )
        return self.sample

    def load_best(self) -> None:
        """Set the network's weights to the best ones."""
        assert self.best is not None
        for variable, value in zip(self._network.variables, self.best, strict=True):
            variable.assign(value)
