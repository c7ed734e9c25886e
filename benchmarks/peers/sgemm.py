"""A large float32 matrix product in NumPy: an upper bound for the rate of a training step in float32.

The environment of the process sets the number of threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.steps import timed


def prepare(*, size: int) -> Callable[[float], dict[str, Any]]:
    """Return the Turn; each step is one product of two (size, size) matrices."""
    random = np.random.default_rng(0)
    a, b = (random.random((size, size), np.float32) for _ in "ab")
    c = np.empty((size, size), np.float32)
    return timed(lambda: np.matmul(a, b, out=c))
