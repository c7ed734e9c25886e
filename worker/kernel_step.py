"""An optimizer step of the LSTM networks on CPU cores, by the kernels of `nextchar.models.kernels`.

For products this small, libraries hardly use a second core. So each core computes the gradients of its share
of the rows in a thread. They are averaged in a fixed order, so the result is the same bit for bit from run to
run. The optimizer and the arrays of a checkpoint are those of `nextchar.worker.distributed`.

Applies `worker.preconditioner` to a gradient by the kernels of `models.kernels`, on several threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.spec import Parameter
from nextchar.models.config import TrainingConfig
from nextchar.models.kernels import packed_arrays
from nextchar.models.kernels.dense_training import adamw, average
from nextchar.models.kernels.lstm_weights import Floats, LSTMWeights
from nextchar.models.kernels.lstm_window import LSTMWindow, State
from nextchar.models.kernels.packed_arrays import ProductFormat
from nextchar.worker import preconditioner
from nextchar.worker.preconditioner import Preconditioner, is_observed, is_preconditioned
from nextchar.worker.rows import replicas_of
from nextchar.worker.schedule import BETA_1, BETA_2, EPSILON, NOT_DECAYED

Map = Callable[[Callable[[slice], None], Sequence[slice]], Iterable[None]]
"""Calls a function for each of some slices, perhaps at the same time."""


class KernelPreconditioner:
    """Preconditions a gradient (H, N), with products in `dtype`, float32 or bfloat16."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        h, n = shape
        formats = ProductFormat(dtype)
        self.preconditioner = Preconditioner(h)
        self._root, self._gradient = formats.activations(h, h), formats.activations(h, n)
        self._packed, self._packed_transposed = formats.packed(h, n), formats.packed(n, h)
        self._sums, self._squares = formats.sums(h, n), formats.sums(h, h)
        self.load_root()

    def apply(self, gradient: Floats, *, step: int, scale: float, parallel: Map, parts: int) -> None:
        """Replace a gradient (H, N) by its preconditioned one.

        Args:
            gradient: of this step.
            step: its number; the first is 1.
            scale: what the gradient is multiplied by, for clipping, where it is observed.
            parallel: how to call a function for several slices.
            parts: the number of slices; it does not change the result.
        """
        rows = slices(len(gradient), parts)
        if is_observed(step):
            self._observe(gradient, step, scale, parallel, rows)
        if is_preconditioned(step):
            packed_arrays.pack(gradient, self._packed)
            _multiply(self._root, self._packed, self._sums, parallel, rows)
            gradient[:] = self._sums[:, : gradient.shape[1]]

    def load_root(self) -> None:
        """Copy R of `preconditioner`, as after its arrays were restored."""
        _to_activations(self.preconditioner.root, self._root)

    def _observe(
        self, gradient: Floats, step: int, scale: float, parallel: Map, rows: Sequence[slice]
    ) -> None:
        _to_activations(gradient, self._gradient)
        packed_arrays.pack_transposed(gradient, self._packed_transposed)
        _multiply(self._gradient, self._packed_transposed, self._squares, parallel, rows)
        product = self._squares[:, : len(gradient)] * np.float32(scale**2 / gradient.shape[1])
        if self.preconditioner.observe(product, step):
            _to_activations(self.preconditioner.root, self._root)


def slices(length: int, parts: int) -> list[slice]:
    """Return slices that divide `length` elements into `parts` of nearly equal length."""
    ends = [length * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _multiply(
    x: NDArray[Any], packed: NDArray[Any], sums: Floats, parallel: Map, rows: Sequence[slice]
) -> None:
    """Set sums (M, N) to activations x (M, K) times a packed matrix."""

    def multiply(some: slice) -> None:
        sums[some] = 0
        packed_arrays.add_product(packed, x[some], sums[some])

    for _ in parallel(multiply, rows):
        pass


def _to_activations(matrix: Floats, x: NDArray[Any]) -> None:
    packed_arrays.gather(matrix, np.arange(len(matrix), dtype=np.int32)[None], x[None])


class KernelStep:
    """Trains a network window by window; holds the optimizer and the states of the rows.

    Args:
        network: the network, whose weights are changed in place.
        training: the recipe.
        rows: B. Its largest divisor up to `cores` is the number of replicas.
        cores: the most threads to use.
        dtype: number format of matrix products, float32 or bfloat16.
    """

    def __init__(
        self, network: KernelLSTM, training: TrainingConfig, *, rows: int, cores: int, dtype: str
    ) -> None:
        self.network, self.replicas = network, replicas_of(rows, max_replicas=cores)
        self._training, self._dtype, self._rows = training, dtype, rows // self.replicas
        self._pool = ThreadPoolExecutor(self.replicas)
        size = network.arrays.flat.size
        self._momentum, self._velocity = (LSTMWeights(network.shape) for _ in range(2))
        self._parts = np.zeros((self.replicas, size), np.float32)
        self._gradients = [LSTMWeights(network.shape, part) for part in self._parts]
        self._mean = LSTMWeights(network.shape)
        self._preconditioners = {
            name: KernelPreconditioner(array.shape, dtype)
            for name, array in self._mean.arrays.items()
            if training.preconditioning and name.endswith("recurrent")
        }
        self._steps, self._learning_rate = 0, training.learning_rate
        layers = np.zeros((network.config.layers, 2, rows, network.config.units), np.float32)  # of h and c
        self._all_states = layers.reshape(-1, rows, network.config.units)  # (2L, B, H)
        self._states: list[State] = [
            [(h[own], c[own]) for h, c in layers] for own in slices(rows, self.replicas)
        ]
        self._windows: list[LSTMWindow] = []
        self._length = 0  # T of the windows

    def reset_states(self, rows: slice = slice(None)) -> None:
        """Set the states of some rows to zero, by default of all."""
        self._all_states[:, rows] = 0

    def run(
        self, inputs: NDArray[np.int32], targets: NDArray[Any], *, step: int, learning_rate: float
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats per character.

        Targets are ids (T, B), or distributions over them (T, B, V).
        """
        if self._length != len(inputs):
            self._set_length(len(inputs))
        losses = list(
            self._pool.map(
                lambda replica, ids, wanted: self._windows[replica].run(
                    self.network.arrays,
                    ids,
                    wanted,
                    self._states[replica],
                    self._gradients[replica],
                    self._masks(step, replica),
                ),
                range(self.replicas),
                np.split(inputs, self.replicas, 1),
                np.split(targets, self.replicas, 1),
            )
        )
        self._update(learning_rate)
        return sum(losses) / len(losses)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that `restore` needs to continue exactly."""
        arrays: dict[str, NDArray[Any]] = {
            f"weight/{i}": variable.numpy() for i, variable in enumerate(self.network.variables)
        }
        arrays["optimizer/0"] = np.array(self._steps, np.int64)
        arrays["optimizer/1"] = np.array(self._learning_rate, np.float32)
        arrays |= {f"optimizer/{i}": moment.numpy() for i, moment in enumerate(self._moments(), 2)}
        arrays |= {f"state/{i}": state.copy() for i, state in enumerate(self._all_states)}
        return arrays | preconditioner.arrays_of(one.preconditioner for one in self._preconditioners.values())

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set weights, optimizer and states to what `arrays` returned. Raises KeyError, ValueError."""
        for i, variable in enumerate(self.network.variables):
            variable.assign(arrays[f"weight/{i}"])
        self._steps, self._learning_rate = int(arrays["optimizer/0"]), float(arrays["optimizer/1"])
        for i, moment in enumerate(self._moments(), 2):
            moment.assign(arrays[f"optimizer/{i}"])
        for i, state in enumerate(self._all_states):
            state[...] = arrays[f"state/{i}"]
        preconditioner.restore((one.preconditioner for one in self._preconditioners.values()), arrays)
        for one in self._preconditioners.values():
            one.load_root()

    def _set_length(self, window: int) -> None:
        self._windows = [
            LSTMWindow(
                self.network.shape,
                self.network.frequencies,
                rows=self._rows,
                window=window,
                dtype=self._dtype,
            )
            for _ in range(self.replicas)
        ]
        self._length = window

    def _masks(self, step: int, replica: int) -> list[Floats] | None:
        """Return what outputs are multiplied by: one mask per row and window (Gal and Ghahramani 2016)."""
        rate = self.network.dropout
        if not rate:
            return None
        random = np.random.default_rng([self._training.seed, step, replica])
        shape = self.network.config.layers + 1, self._rows, self.network.config.units
        kept = random.random(shape, np.float32) >= rate
        return list(kept.astype(np.float32) / np.float32(1 - rate))

    def _update(self, learning_rate: float) -> None:
        """Take an optimizer step with the mean of the gradients, clipped."""
        mean = self._mean
        norm = average(self._parts, mean.flat, 0, mean.flat.size) ** 0.5
        clip_norm = self._training.clip_norm
        scale = clip_norm / max(norm, clip_norm)
        self._steps, self._learning_rate = self._steps + 1, learning_rate
        rate = learning_rate * (1 - BETA_2**self._steps) ** 0.5 / (1 - BETA_1**self._steps)
        for name, one in self._preconditioners.items():
            if self._steps == preconditioner.START:
                self._momentum[name][:] = self._velocity[name][:] = 0
            one.apply(mean[name], step=self._steps, scale=scale, parallel=self._pool.map, parts=self.replicas)

        def update(some: slice) -> None:
            for name, part in mean.parts.items():
                is_decayed = not any(word in name for word in NOT_DECAYED)
                own = slice(max(part.start, some.start), min(part.stop, some.stop))
                adamw(
                    *(
                        array.flat[own]
                        for array in (self.network.arrays, mean, self._momentum, self._velocity)
                    ),
                    scale,
                    rate,
                    learning_rate * self._training.weight_decay if is_decayed else 0.0,
                    BETA_1,
                    BETA_2,
                    EPSILON,
                )

        list(self._pool.map(update, slices(mean.flat.size, self.replicas)))

    def _moments(self) -> Iterator[Parameter]:
        """Yield both moments of each weight, in the order of Keras's optimizer."""
        for name in self.network.arrays.arrays:
            yield self.network.keras_variable(name, self._momentum[name])
            yield self.network.keras_variable(name, self._velocity[name], sign=1)
