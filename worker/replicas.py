"""An optimizer step on all CPU cores: rows are split over replicas, and gradients averaged.

For products this small, libraries hardly use a second core. So each core trains on its share of the rows in a
thread, by a single-threaded XLA program. One compiled update averages the gradients in a fixed order, so the
result is the same bit for bit from run to run. `worker/kernel_step.py` does the same for the LSTM networks
without TensorFlow, and `worker/distributed.py` is the counterpart for GPUs.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nextchar.models.architectures.spec import Differentiable
from nextchar.models.config import TrainingConfig
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
