"""Chooses the devices for training: the GPUs that TensorFlow sees, or the cores of the CPU."""

import os
import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nextchar.models.architectures import architecture
from nextchar.models.architectures.spec import Trainable, TrainingStep
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.worker.settings import Precision

# TensorFlow reads these when it is imported: one thread per XLA program, and no notices.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_DEVICES = Path("/dev")
_GPU_DEVICES = ("nvidiactl", "nvidia0", "dxg", "kfd")  # of NVIDIA, of Windows' subsystem for Linux, of AMD


def network_and_step(
    config: NetworkConfig,
    training: TrainingConfig,
    frequencies: NDArray[Any],
    *,
    seed: int,
    rows: int,
    cores: int,
    precision: Precision = "mixed",
) -> tuple[Trainable, TrainingStep]:
    """Return a network with random weights on the training devices, and its training step for B = `rows`.

    Args:
        config: the network's shape.
        training: the recipe.
        frequencies: (V,) relative frequency of each id in the training text.
        seed: of the weights.
        rows: B.
        cores: the most CPU cores to use, where there is no GPU.
        precision: `mixed` means 16 bits where the machine supports them.
    """
    kind = architecture(config.architecture)
    if kind.step:
        network = kind.build(config, frequencies, seed=seed)
        return network, kind.step(network, training, rows=rows)
    if devices := gpus():
        from nextchar.worker.distributed import DistributedStep

        step = DistributedStep(
            lambda: kind.build(config, frequencies, seed=seed),
            training,
            rows=rows,
            devices=devices,
            mixed=precision == "mixed",
        )
        return step.network, step
    if kind.build_for_kernels:
        from nextchar.worker.kernel_step import KernelStep  # compiles kernels

        lstm = kind.build_for_kernels(config, frequencies, seed=seed)
        dtype = "bfloat16" if precision == "mixed" else "float32"
        return lstm, KernelStep(lstm, training, rows=rows, cores=cores, dtype=dtype)
    from nextchar.worker.distributed import ReplicatedStep

    network = kind.build(config, frequencies, seed=seed)
    return network, ReplicatedStep(network, training, rows=rows, cores=cores)


def gpu_problem() -> str | None:
    """Return why training uses the CPU although this machine should have a GPU; None: it does not."""
    chosen, files = os.environ.get("CUDA_VISIBLE_DEVICES"), _device_files()
    if chosen in ("", "-1") or (chosen is None and not files) or gpus():
        return None
    reason = f"there is {files[0]}" if chosen is None else f"CUDA_VISIBLE_DEVICES is {chosen!r}"
    return (
        f"TensorFlow sees no GPU, although {reason}; check the driver, and that the worker is installed for"
        " GPUs, or set CUDA_VISIBLE_DEVICES=-1 to train on the CPU"
    )


def _device_files() -> list[Path]:
    return [path for name in _GPU_DEVICES if (path := _DEVICES / name).exists()]


def gpus() -> list[str]:
    """Return the names of the GPUs that TensorFlow sees, which CUDA_VISIBLE_DEVICES can limit.

    On Linux TensorFlow is not asked if there is no device file of a GPU: importing it takes seconds.
    """
    if sys.platform == "linux" and not _device_files():
        return []
    import tensorflow as tf

    return [f"GPU:{i}" for i, _ in enumerate(tf.config.list_logical_devices("GPU"))]
