"""The network of `stateful_lstm` in NumPy arrays, which `nextchar.models.kernels.lstm_window` trains on CPUs.

It has the weights of the Keras network, in the same order, so a checkpoint can move between CPUs and GPUs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.spec import CoupledGates, Parameter, Weights
from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.lstm_weights import EPSILON, Floats, LSTMShape, LSTMWeights, normalized

_EMBEDDING_RANGE = 0.05  # as Keras's layer


class KernelLSTM:
    """The trainable network. `arrays` are its weights, by name.

    Args:
        config: its shape.
        frequencies: (V,) float, relative frequency of each id in the training text.
        seed: of the initial weights.
        has_hidden: with a dense relu layer before the output.
    """

    def __init__(
        self, config: NetworkConfig, frequencies: NDArray[np.floating], *, seed: int, has_hidden: bool = False
    ) -> None:
        assert config.embedding
        self.config = config
        self.vocabulary_size = len(frequencies)
        self.frequencies: Floats = np.asarray(frequencies, np.float32)
        self.shape = LSTMShape(
            config.layers,
            config.units,
            config.embedding,
            self.vocabulary_size,
            has_hidden,
            config.coupled_gates,
        )
        self.arrays = LSTMWeights(self.shape)
        self.dropout = config.dropout or 0.0
        self._initialize(np.random.default_rng(seed))

    @property
    def variables(self) -> list[Parameter]:
        """All trainable variables of the Keras network, in its order."""
        return [self.keras_variable(name, array) for name, array in self.arrays.arrays.items()]

    def keras_variable(self, name: str, array: Floats, *, sign: int = -1) -> Parameter:
        """Return an array of the shape of a weight as a variable of the Keras network.

        `sign`: see `nextchar.models.kernels.lstm_weights.with_input_gate`.
        """
        is_coupled = self.config.coupled_gates and name.startswith("lstm")
        return CoupledGates(array, sign=sign) if is_coupled else Parameter(array)

    def weights(self) -> Weights:
        """Return the weights, named as in `models.architectures.onnx_graph`, normalization folded in."""
        copies = {
            name: self.keras_variable(name, array).numpy() for name, array in self.arrays.arrays.items()
        }
        del copies["gamma"], copies["beta"]
        return copies | {"embedding": normalized(self.arrays, self.frequencies)[0]}

    def load(self, weights: Weights) -> None:
        """Set the weights to those that `weights` returned for another network.

        The normalization by that network's corpus is folded into them. So this network's is set to the
        identity: both compute the same up to rounding.
        """
        for name, array in weights.items():
            self.keras_variable(name, self.arrays[name]).assign(array)
        table = self.arrays["embedding"]
        mean = self.frequencies @ table
        self.arrays["gamma"][:] = np.sqrt(self.frequencies @ np.square(table - mean) + EPSILON)
        self.arrays["beta"][:] = mean

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate, if the config does not fix it."""
        if self.config.dropout is None:
            self.dropout = rate

    def keras_file(self) -> bytes:
        """Return the contents of a `.keras` file of stock layers with the weights."""
        from nextchar.models.architectures.lstm_keras_file import lstm_keras_file  # imports h5py

        weights: Weights = {
            name: self.keras_variable(name, array).numpy() for name, array in self.arrays.arrays.items()
        }
        table = self.arrays["embedding"]
        mean = self.frequencies @ table
        variance = self.frequencies @ np.square(table - mean)
        return lstm_keras_file(self.config.architecture, weights | {"mean": mean, "variance": variance})

    def _initialize(self, random: np.random.Generator) -> None:
        """Draw weights from the distributions that Keras draws them from."""
        for name, array in self.arrays.arrays.items():
            part = name.rpartition("/")[2]
            if part == "embedding":
                array[:] = random.uniform(-_EMBEDDING_RANGE, _EMBEDDING_RANGE, array.shape)
            elif part == "kernel":  # Glorot and Bengio 2010
                limit = np.sqrt(6 / sum(array.shape))
                array[:] = random.uniform(-limit, limit, array.shape)
            elif part == "recurrent":
                array[:] = _orthogonal(random, *array.shape)
            elif part == "gamma":
                array[:] = 1
            elif name.startswith("lstm"):  # the bias: gates start by remembering
                units = self.config.units
                array[-3 * units : -2 * units] = 1


def _orthogonal(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Return a matrix with orthonormal rows; there are at least as many columns (Saxe et al. 2014)."""
    q, r = np.linalg.qr(random.normal(size=(columns, rows)))
    return (q * np.sign(np.diag(r))).T
