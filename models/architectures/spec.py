"""The interface of an architecture: its description, its network and its training step.

A trainable NumPy array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.kernels.lstm_weights import with_input_gate, without_input_gate

Weights = dict[str, NDArray[np.float32]]


class Trainable(Protocol):
    """A network in training."""

    config: NetworkConfig
    vocabulary_size: int

    @property
    def variables(self) -> list[Any]:
        """All trainable variables, in a fixed order; each has `numpy()`, `assign(array)` and `shape`."""

    def weights(self) -> Weights:
        """Return the weights, named as the architecture's `graph` expects."""


class Differentiable(Trainable, Protocol):
    """A network whose gradients TensorFlow computes; its state is an argument and a result."""

    def keras_model(self) -> Any:
        """Return a model of stock Keras layers with copies of the weights."""

    def initial_state(self, rows: int) -> Any:
        """Return the state at the start of a text: tensors with B rows, in nested tuples."""

    def logits(self, ids: Any, state: Any, *, seed: Any) -> tuple[Any, Any]:
        """Run one window (T, B) of ids; return logits (T, B, V) and the state after it.

        `seed` (2,) int32 is the random seed of this window.
        """


class TrainingStep(Protocol):
    """Trains a network window by window and holds the training state: weights, optimizer, LSTM states."""

    def reset_states(self, rows: slice = slice(None)) -> None:
        """Reset the states of these rows to the start of a text."""

    def run(
        self, inputs: NDArray[np.int32], targets: NDArray[Any], *, step: int, learning_rate: float
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats per character.

        Targets are ids (T, B), or in mixed batches distributions over ids (T, B, V); the latter are never
        passed to a step that an architecture defines itself.
        """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state for `restore`, after which training continues bit-identically."""

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set the state that `arrays` returned."""


TRAINING_OPTIONS = ("rows", "window", "learning_rate", "weight_decay", "clip_norm")
"""Fields of TrainingConfig that can be set for most architectures."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture. The modules of this package define them, under their names in capitals.

    Attributes:
        description: one sentence for users.
        network: the default shape.
        training: the default recipe.
        network_options: fields of NetworkConfig that can be set.
        training_options: fields of TrainingConfig that can be set.
        build: (config, frequencies (V,), seed=) -> the network with random weights.
        graph: (config, weights) -> the serialized ONNX graph.
        parameters: (config, V) -> the number of weights.
        activation_floats_per_character: (config, V) -> floats that training keeps per character of a window.
        step: (network, training, rows=) -> its training step; None: the step of worker/devices.py.
        warmup_steps: minimum length of the learning rate's linear warm-up.
        has_independent_windows: windows carry no state and are as long as the network's context.
        build_for_kernels: as `build`, but the KernelLSTM that models/kernels trains on a CPU, possibly in 16
            bits. None: `build`'s is trained there, too, by XLA.
        can_load_weights: its network has `load(weights)`, the inverse of `weights()`, so training can start
            from a saved model.
        notes_nats: the lecture notes' training loss on Nietzsche in nats per character, if they give one.
        notes_measure: what that figure measures, or the result that the notes give instead.
    """

    description: str
    network: NetworkConfig
    training: TrainingConfig
    network_options: tuple[str, ...]
    training_options: tuple[str, ...] = TRAINING_OPTIONS
    build: Callable[..., Differentiable]
    graph: Callable[[NetworkConfig, Weights], bytes]
    parameters: Callable[[NetworkConfig, int], int]
    activation_floats_per_character: Callable[[NetworkConfig, int], int]
    step: Callable[..., TrainingStep] | None = None
    warmup_steps: int = 0
    has_independent_windows: bool = False
    build_for_kernels: Callable[..., Any] | None = None
    can_load_weights: bool = False
    notes_nats: float | None = None
    notes_measure: str = ""


Floats = NDArray[np.floating[Any]]


class Parameter:
    """An array with the methods of a variable that training uses."""

    def __init__(self, value: Floats) -> None:
        self.value = value
        self.shape = value.shape

    def numpy(self) -> Floats:
        """Return a copy."""
        return self.value.copy()

    def assign(self, value: Floats) -> None:
        """Set the value."""
        self.value[...] = value


class CoupledGates(Parameter):
    """Weights (..., 3H) of LSTM gates f, g, o, with the methods of a variable (..., 4H) of i, f, g, o.

    `sign`: see `nextchar.models.kernels.lstm_weights.with_input_gate`.
    """

    def __init__(self, value: Floats, *, sign: int = -1) -> None:
        super().__init__(value)
        self._sign = sign
        self.shape = (*value.shape[:-1], value.shape[-1] // 3 * 4)

    def numpy(self) -> Floats:
        """Return a copy with the input gate."""
        return with_input_gate(self.value, sign=self._sign)

    def assign(self, value: Floats) -> None:
        """Set the value; its input gate is left out."""
        self.value[...] = without_input_gate(value)
