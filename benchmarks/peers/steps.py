"""Shared by contestants: windows, recipe, timing, versions."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0

_WARM_UP_STEPS = 3
_WINDOWS = 8


def windows(*, rows: int, window: int, vocabulary: int) -> Iterator[tuple[NDArray[np.int32], ...]]:
    """Yield inputs and targets without end, each (T, B) int32: random ids, the same for every contestant."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (_WINDOWS, window + 1, rows), np.int32)
    return itertools.cycle([(part[:-1].copy(), part[1:].copy()) for part in ids])


def timed(step: Callable[[], object]) -> Callable[[float], dict[str, Any]]:
    """Warm up `step` and return the Turn that repeats it; `step` must be synchronous."""
    for _ in range(_WARM_UP_STEPS):
        step()

    def turn(seconds: float) -> dict[str, Any]:
        began, count = time.perf_counter(), 0
        while True:
            step()
            count += 1
            elapsed = time.perf_counter() - began
            if elapsed >= seconds:
                return {"steps": count, "seconds": elapsed}

    return turn


def torch_versions() -> str:
    """Return torch's version, and the instructions that its own kernels (ATen) use."""
    import torch

    return f"torch {torch.__version__}, ATen {torch.backends.cpu.get_cpu_capability()}"


def keras_versions() -> str:
    """Return the versions of Keras and TensorFlow."""
    import keras
    import tensorflow as tf

    return f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
