"""Chooses the devices for training: the GPUs that TensorFlow sees, or the cores of the CPU."""

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
    """Return a network with random weights on the training devices, and its training step for B = `rows`.

    Without a GPU it uses at most `cores` CPU cores. `precision` `mixed` means 16 bits where the machine
    supports them.
    """
    if devices := gpus():
        step = DistributedStep(build, training, rows=rows, devices=devices, mixed=precision == "mixed")
        return step.network, step
    with dtype_policy("mixed_bfloat16" if precision == "mixed" else "float32"):
        network = build()
    return network, ReplicatedStep(network, training, rows=rows, cores=cores)


def gpus() -> list[str]:
    """Return the names of the GPUs that TensorFlow sees, which CUDA_VISIBLE_DEVICES can limit."""
    return [f"GPU:{i}" for i, _ in enumerate(tf.config.list_logical_devices("GPU"))]
