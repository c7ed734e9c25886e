"""An optimizer step in TensorFlow: rows are split over replicas of the network, and gradients averaged.

On the CPU (`ReplicatedStep`): for products this small, libraries hardly use a second core. So each core
trains on its share of the rows in a thread, by a single-threaded XLA program. One compiled update averages
the gradients in a fixed order, so the result is the same bit for bit from run to run. The LSTM networks are
trained without TensorFlow in the same way (`worker/kernel_step.py`).

On one or several GPUs (`DistributedStep`) by `tf.distribute`: each device has a copy of the weights and a
share of the rows with their states, which stay on the device between steps. Gradients are averaged before
clipping, so the number of devices changes only rounding and dropout masks. XLA is not used, because it
cannot use cuDNN.

In mixed precision the products are in float16, weights and optimizer in float32, and the loss is scaled so
that small gradients do not underflow (Micikevicius et al., "Mixed Precision Training", 2018). For bfloat16
TensorFlow's cuDNN LSTM would compute in float32.

Checkpoints of both have the same arrays, so a job can move between GPUs and CPUs.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nextchar.models.architectures.spec import Differentiable
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.config import TrainingConfig
from nextchar.worker import preconditioner
from nextchar.worker.preconditioner import Preconditioner
from nextchar.worker.rows import replicas_of
from nextchar.worker.schedule import BETA_1, BETA_2, EPSILON, NOT_DECAYED


class SplitStep:
    """What training steps share that split the rows over replicas of the network."""

    network: Differentiable
    replicas: int
    _optimizer: keras.optimizers.Optimizer
    _rows: int
    _states: list[Any]  # of each replica

    def reset_states(self, rows: slice = slice(None)) -> None:
        """Set the states of some rows to zero, by default of all."""
        kept = np.ones(self._rows, bool)
        kept[rows] = False
        self._states = [
            tf.nest.map_structure(lambda part, share=share: tf.where(share[:, None], part, 0.0), state)
            for state, share in zip(self._states, np.split(kept, self.replicas), strict=True)
        ]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that `restore` needs to continue exactly."""
        arrays = {f"weight/{i}": v.numpy() for i, v in enumerate(self.network.variables)}
        arrays |= {f"optimizer/{i}": v.numpy() for i, v in enumerate(self._optimizer.variables)}
        for i, shares in enumerate(zip(*map(tf.nest.flatten, self._states), strict=True)):
            arrays[f"state/{i}"] = np.concatenate([share.numpy() for share in shares])
        return arrays

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set weights, optimizer and states to what `arrays` returned. Raises KeyError, ValueError."""
        for i, variable in enumerate(self.network.variables):
            variable.assign(arrays[f"weight/{i}"])
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[f"optimizer/{i}"])
        structure = self._states[0]
        parts = range(len(tf.nest.flatten(structure)))
        shares = [np.split(arrays[f"state/{i}"], self.replicas) for i in parts]
        self._states = [
            tf.nest.pack_sequence_as(structure, [tf.constant(share[r]) for share in shares])
            for r in range(self.replicas)
        ]


class ReplicatedStep(SplitStep):
    """Trains a network window by window; holds the optimizer and the replicas' states.

    The largest divisor of B = `rows` up to `cores` is the number of replicas.
    """

    def __init__(self, network: Differentiable, training: TrainingConfig, *, rows: int, cores: int) -> None:
        self.replicas = replicas_of(rows, max_replicas=cores)
        self.network = network
        self._clip_norm = training.clip_norm
        self._rows = rows
        self._pool = ThreadPoolExecutor(self.replicas)
        self._optimizer = adamw(training, network.variables)
        self._gradient = tf.function(self._replica_gradient, jit_compile=True, autograph=False)
        self._update = tf.function(self._averaged_update, jit_compile=True, autograph=False)
        self._compiled = False
        self._states = [network.initial_state(rows // self.replicas)] * self.replicas

    def run(
        self, inputs: NDArray[np.int32], targets: NDArray[Any], *, step: int, learning_rate: float
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats per character.

        Targets are ids (T, B), or distributions over them (T, B, V).
        """
        shares = zip(
            np.split(inputs, self.replicas, 1), np.split(targets, self.replicas, 1), self._states, strict=True
        )
        calls = [
            (tf.constant(x), tf.constant(y), state, tf.constant([step, replica], tf.int32))
            for replica, (x, y, state) in enumerate(shares)
        ]
        if self._compiled and self.replicas > 1:
            results = list(self._pool.map(lambda call: self._gradient(*call), calls))
        else:  # in sequence, so that the program is compiled once
            results = [self._gradient(*call) for call in calls]
            self._compiled = True
        self._states = [state for _, _, state in results]
        self._optimizer.learning_rate.assign(learning_rate)
        loss = self._update([loss for loss, _, _ in results], [gradients for _, gradients, _ in results])
        return float(loss)

    def _replica_gradient(self, x: tf.Tensor, y: tf.Tensor, state: Any, seed: tf.Tensor) -> Any:
        variables = [v.value for v in self.network.variables]
        with tf.GradientTape() as tape:
            loss, after = mean_loss(self.network, x, y, state, seed)
        gradients = tape.gradient(loss, variables)
        return loss, [tf.convert_to_tensor(g) for g in gradients], after

    def _averaged_update(self, losses: list[tf.Tensor], gradients: list[list[tf.Tensor]]) -> tf.Tensor:
        mean = [tf.add_n(parts) / len(parts) for parts in map(list, zip(*gradients, strict=True))]
        clipped, _ = tf.clip_by_global_norm(mean, self._clip_norm)
        self._optimizer.apply(clipped, self.network.variables)
        return tf.add_n(losses) / len(losses)


def adamw(training: TrainingConfig, variables: list[Any]) -> keras.optimizers.AdamW:
    """Return the optimizer, built for `variables`; biases, scales and embeddings are not decayed."""
    optimizer = keras.optimizers.AdamW(
        training.learning_rate,
        weight_decay=training.weight_decay,
        beta_1=BETA_1,
        beta_2=BETA_2,
        epsilon=EPSILON,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    optimizer.build(variables)
    return optimizer


def mean_loss(
    network: Differentiable, x: tf.Tensor, y: tf.Tensor, state: Any, seed: tf.Tensor
) -> tuple[tf.Tensor, Any]:
    """Return the mean loss of a window in nats per character, and the state after it.

    Targets y are ids (T, B), or distributions over them (T, B, V).
    """
    logits, after = network.logits(x, state, seed=seed)
    losses = (
        tf.nn.softmax_cross_entropy_with_logits(y, logits)
        if y.shape.rank == 3
        else tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    )
    return tf.reduce_mean(losses), after


_MIXED = "mixed_float16"
_LOSS_SCALE = "loss_scale"


class DistributedStep(SplitStep):
    """Builds a network on the devices and trains it window by window; `mixed`: with products in float16.

    `devices` are names such as `GPU:0`; the largest divisor of B = `rows` up to their number is used.
    """

    def __init__(
        self,
        build: Callable[[], Differentiable],
        training: TrainingConfig,
        *,
        rows: int,
        devices: Sequence[str],
        mixed: bool,
    ) -> None:
        self.replicas = replicas_of(rows, max_replicas=len(devices))
        self._strategy = _strategy(tuple(devices[: self.replicas]))
        with self._strategy.scope(), dtype_policy(_MIXED if mixed else "float32"):
            self.network = build()
            self._optimizer = adamw(training, self.network.variables)
        self._clip_norm = training.clip_norm
        self._rows = rows
        self._recurrent: list[int] = []  # indices of the variables whose gradients are preconditioned
        if training.preconditioning and isinstance(self.network, StatefulLSTM):
            self._recurrent = self.network.recurrent()
        units = self.network.config.units
        self._preconditioners = [Preconditioner(units) for _ in self._recurrent]
        self._gate_columns = (3 if self.network.config.coupled_gates else 4) * units
        self._roots: list[tf.Tensor] = []
        self._set_roots()
        self._scale = LossScale() if mixed else None
        self._states = [self.network.initial_state(rows // self.replicas)] * self.replicas
        self._gradient = tf.function(self._averaged_gradient, autograph=False)
        self._update = tf.function(self._applied, autograph=False)

    def run(
        self, inputs: NDArray[np.int32], targets: NDArray[Any], *, step: int, learning_rate: float
    ) -> float:
        """Train on one window (T, B); return its mean loss in nats per character.

        Targets are ids (T, B), or distributions over them (T, B, V). Gradients that are not finite change no
        weights.
        """
        shares = zip(np.split(inputs, self.replicas, 1), np.split(targets, self.replicas, 1), strict=True)
        windows = self._distribute(
            [
                (tf.constant(x), tf.constant(y), tf.constant([step, replica], tf.int32))
                for replica, (x, y) in enumerate(shares)
            ]
        )
        scale = self._scale.value if self._scale else 1.0
        losses, gradients, finite, self._on_devices = self._gradient(
            windows, self._on_devices, tf.constant(scale, tf.float32)
        )
        is_finite = bool(self._strategy.experimental_local_results(finite)[0])
        if self._scale:
            self._scale = self._scale.after(is_finite=is_finite)
        if is_finite:
            self._optimizer.learning_rate.assign(learning_rate)
            self._observe(gradients)
            self._update(gradients, self._roots)
        return float(self._strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that `restore` needs to continue."""
        scale = {_LOSS_SCALE: np.array([self._scale.value, self._scale.good_steps])} if self._scale else {}
        return super().arrays() | scale | preconditioner.arrays_of(self._preconditioners)

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set weights, optimizer and states to what `arrays` returned. Raises KeyError, ValueError."""
        super().restore(arrays)
        preconditioner.restore(self._preconditioners, arrays)
        self._set_roots()
        if self._scale:
            value, good_steps = arrays.get(_LOSS_SCALE, (LossScale.value, 0))
            self._scale = LossScale(float(value), int(good_steps))

    def _distribute(self, parts: Sequence[Any]) -> Any:
        """Return a distributed value, which is `parts[r]` in replica r."""
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    _on_devices: Any  # the states as a distributed value

    @property
    def _states(self) -> list[Any]:
        results = self._strategy.experimental_local_results
        leaves = [results(leaf) for leaf in tf.nest.flatten(self._on_devices)]
        return [tf.nest.pack_sequence_as(self._on_devices, parts) for parts in zip(*leaves, strict=True)]

    @_states.setter
    def _states(self, states: list[Any]) -> None:
        self._on_devices = self._distribute(states)

    def _averaged_gradient(self, windows: Any, states: Any, scale: tf.Tensor) -> Any:
        """Return losses, clipped gradients of the mean loss, whether they are finite, and states."""
        return self._strategy.run(self._replica_gradient, (windows, states, scale))

    def _replica_gradient(self, window: Any, state: Any, scale: tf.Tensor) -> Any:
        x, y, seed = window
        variables = [v.value for v in self.network.variables]
        with tf.GradientTape() as tape:
            loss, after = mean_loss(self.network, x, y, state, seed)
            scaled = loss * scale
        gradients = [tf.convert_to_tensor(g) / scale for g in tape.gradient(scaled, variables)]
        mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        norm = tf.linalg.global_norm(mean)
        if isinstance(self.network, StatefulLSTM):
            mean, norm = self.network.tied(mean)
        clipped, _ = tf.clip_by_global_norm(mean, self._clip_norm, use_norm=norm)
        # After an overflow of float16 the next window begins with what is finite.
        kept = tf.nest.map_structure(
            lambda new, old: tf.where(tf.math.is_finite(new), new, old), after, state
        )
        return loss, clipped, tf.math.is_finite(norm), kept

    def _observe(self, gradients: Any) -> None:
        """Give the preconditioners the gradients of the next step."""
        step = int(self._optimizer.iterations.numpy()) + 1
        if not preconditioner.is_observed(step):
            return
        changed = False
        for i, one in zip(self._recurrent, self._preconditioners, strict=True):
            if step == preconditioner.START:
                for moment in self._optimizer.variables[2 + 2 * i : 4 + 2 * i]:
                    moment.assign(tf.zeros_like(moment))
            gradient = self._strategy.experimental_local_results(gradients[i])[0]
            # The input gate that is tied to the forget gate, at the front, counts once.
            columns = gradient[:, -self._gate_columns :]
            product = tf.matmul(columns, columns, transpose_b=True) / self._gate_columns
            changed |= one.observe(product.numpy(), step)
        if changed:
            self._set_roots()

    def _set_roots(self) -> None:
        self._roots = [tf.constant(one.root) for one in self._preconditioners]

    def _applied(self, gradients: Any, roots: list[tf.Tensor]) -> None:
        self._strategy.run(self._replica_update, (gradients, roots))

    def _replica_update(self, gradients: list[tf.Tensor], roots: list[tf.Tensor]) -> None:
        gradients = list(gradients)
        for i, root in zip(self._recurrent, roots, strict=True):
            gradients[i] = tf.matmul(root, gradients[i])
        # All replicas have the same gradients, and Keras sums them: each contributes its share.
        self._optimizer.apply([g / self.replicas for g in gradients], self.network.variables)


@dataclass(frozen=True)
class LossScale:
    """The dynamic loss scale: halved after an overflow, doubled after 2,000 good steps."""

    value: float = 2.0**15
    good_steps: int = 0  # since the last change

    def after(self, *, is_finite: bool) -> "LossScale":
        """Return the scale for the next step."""
        if not is_finite:
            return LossScale(max(1.0, self.value / 2))
        if self.good_steps + 1 == 2000:
            return LossScale(self.value * 2)
        return LossScale(self.value, self.good_steps + 1)


@cache
def _strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the strategy of these devices: one per process, because two would reuse reduction keys."""
    return tf.distribute.MirroredStrategy(devices)


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Use this dtype policy for layers that are built in the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
