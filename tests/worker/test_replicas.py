"""The training step of XLA programs, one per core, against the loops in NumPy arrays."""

from collections.abc import Iterator

import numpy as np
import pytest

from nextchar.models.architectures import architecture
from nextchar.models.architectures.lazy import tf
from nextchar.models.architectures.spec import Trainable, TrainingStep
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.worker.kernel_step import KernelStep

B, T, V, STEPS = 4, 5, 7, 4
# The norm of the gradients is larger: they are clipped.
TRAINING = TrainingConfig(rows=B, window=T, learning_rate=1e-2, weight_decay=0.9, clip_norm=0.05)
IDS = np.random.default_rng(3).integers(1, V, (STEPS, T + 1, B)).astype(np.int32)


@pytest.fixture(autouse=True)
def eagerly() -> Iterator[None]:
    """Compile nothing: it computes the same and begins at once."""
    tf.config.run_functions_eagerly(run_eagerly=True)
    yield
    tf.config.run_functions_eagerly(run_eagerly=False)


def network(*, dropout: float = 0.0) -> StatefulLSTM:
    config = NetworkConfig(layers=2, units=6, embedding=3, dropout=dropout)
    return StatefulLSTM(config, np.full(V, 1 / V), seed=2)


def replicated(keras_network: StatefulLSTM) -> TrainingStep:
    from nextchar.worker.distributed import ReplicatedStep  # imports TensorFlow

    return ReplicatedStep(keras_network, TRAINING, rows=B, cores=2)


def in_kernels(keras_network: Trainable) -> KernelStep:
    build = architecture("stateful_lstm").build_for_kernels
    assert build
    copy = build(keras_network.config, np.full(V, 1 / V), seed=1)
    for variable, original in zip(copy.variables, keras_network.variables, strict=True):
        variable.assign(original.numpy())
    return KernelStep(copy, TRAINING, rows=B, cores=2, dtype="float32")


def test_losses_weights_and_states_are_those_of_the_kernels() -> None:
    keras_network = network()
    step, naive = replicated(keras_network), in_kernels(keras_network)
    for at, ids in enumerate(IDS):
        if at == 2:
            for one in (step, naive):
                one.reset_states(slice(1, 3))  # some rows of each replica
        losses = [one.run(ids[:-1], ids[1:], step=at + 1, learning_rate=0.05) for one in (step, naive)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ours, theirs = step.arrays(), naive.arrays()
    for name in theirs:
        if name.startswith(("weight", "state")):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4, err_msg=name)


def test_replicas_drop_different_units() -> None:
    step = replicated(network(dropout=0.5))
    ids = np.repeat(IDS[0, :, :1], B, 1)  # the same text in each row
    step.run(ids[:-1], ids[1:], step=1, learning_rate=1e-2)
    first, second = np.split(step.arrays()["state/2"], 2)  # of the layer above the one with dropout
    assert np.abs(first - second).max() > 1e-4
