"""What an architecture's file says of it, and what its network and its training step can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.config import NetworkConfig, TrainingConfig

Weights = dict[str, NDArray[np.float32]]


class Trainable(Protocol):
    """A network in training. Its state enters as an argument and leaves as a result."""

    config: NetworkConfig
    vocabulary_size: int

    @property
    def variables(self) -> list[Any]:
        """All that is trained, in a fixed order; each has `numpy()`, `assign(array)` and `shape`."""

    def initial_state(self, rows: int) -> Any:
        """Return the state before a text: tensors of B rows each, nested in tuples."""

    def logits(self, ids: Any, state: Any, *, seed: Any) -> tuple[Any, Any]:
        """Run one window (T, B) of ids; return logits (T, B, V) and the state after it.

        `seed`, (2,) int32, is that of what is drawn at random in this window.
        """

    def weights(self) -> Weights:
        """Return the weights by the names that the architecture's `graph` reads."""

    def keras_model(self) -> Any:
        """Return a model of stock Keras layers with copies of the weights."""


class TrainingStep(Protocol):
    """Trains a network window by window, and holds all that changes with it."""

    def reset_states(self, rows: slice = slice(None)) -> None:
        """Begin these rows anew: nothing has been read."""

    def run(
        self, inputs: NDArray[np.int32], targets: NDArray[Any], *, step: int, learning_rate: float
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats a character.

        Targets are ids (T, B). Where batches are mixed they may be distributions over ids, (T, B, V);
        a step of an architecture's own, of a single row, never sees those.
        """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything a later `restore` needs to go on exactly as if never interrupted."""

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set everything to what `arrays` returned."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family of networks. A file of this package makes one and calls it ARCHITECTURE.

    Attributes:
        description: one sentence for people who choose.
        network: the shape that is built when nothing more is asked.
        training: the recipe that goes with it.
        network_options: fields of NetworkConfig that may be changed.
        training_options: fields of TrainingConfig that may be changed.
        build: (config, frequencies (V,), seed=) -> the network with fresh weights.
        graph: (config, weights) -> the serialized ONNX graph.
        parameters: (config, V) -> how many weights there are.
        activation_floats_per_character: (config, V) -> numbers kept per character of a window in training.
        step: (network, training, rows=) -> its own training step, or None: that of worker/devices.py.
        warmup_steps: over so many the rate rises from nothing, however short the run is.
        reads_windows_alone: each window is a text of its own, as long as the network's context.
        own_kernels: on a CPU the operations of models/kernels/tensorflow_ops.py train it, also in 16 bits,
            and not XLA.
        loads_weights: its network has `load(weights)`, which undoes `weights()`; so it can be started from.
        notes_nats: the lecture notes' training loss on Nietzsche in nats per character, if they give one.
        notes_measure: what that figure is of, or what the notes say instead.
    """

    description: str
    network: NetworkConfig
    training: TrainingConfig
    network_options: tuple[str, ...]
    training_options: tuple[str, ...]
    build: Callable[..., Trainable]
    graph: Callable[[NetworkConfig, Weights], bytes]
    parameters: Callable[[NetworkConfig, int], int]
    activation_floats_per_character: Callable[[NetworkConfig, int], int]
    step: Callable[..., TrainingStep] | None = None
    warmup_steps: int = 0
    reads_windows_alone: bool = False
    own_kernels: bool = False
    loads_weights: bool = False
    notes_nats: float | None = None
    notes_measure: str = ""
