"""Where a network is trained: on the GPUs that TensorFlow sees, or on the cores of the CPU."""

from collections.abc import Callable

import tensorflow as tf

from models.architectures.spec import Trainable, TrainingStep
from models.config import TrainingConfig
from worker.distributed import DistributedStep, dtype_policy
from worker.replicas import ReplicatedStep
from worker.settings import Precision


def network_and_step(
    build: Callable[[], Trainable],
    training: TrainingConfig,
    *,
    rows: int,
    cores: int,
    precision: Precision = "mixed",
) -> tuple[Trainable, TrainingStep]:
    """Return a network with fresh weights, and what trains it.

    The network is made here, for its weights are to be made where they are trained.

    Args:
        build: makes the network.
        training: the recipe.
        rows: B, the rows of every window.
        cores: of the CPU, to train on at most, where there is no GPU.
        precision: of matrix products: 16 bits where the machine has them, or float32.
    """
    if devices := gpus():
        step = DistributedStep(build, training, rows=rows, devices=devices, mixed=precision == "mixed")
        return step.network, step
    with dtype_policy("mixed_bfloat16" if precision == "mixed" else "float32"):
        network = build()
    return network, ReplicatedStep(network, training, rows=rows, cores=cores)


def gpus() -> list[str]:
    """Return the names of the GPUs that TensorFlow sees; CUDA_VISIBLE_DEVICES decides that."""
    return [f"GPU:{i}" for i, _ in enumerate(tf.config.list_logical_devices("GPU"))]
