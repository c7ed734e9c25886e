"""Small networks of every architecture, with weights away from zeros and ones, so that each counts."""

from typing import Any

import numpy as np

from models.architectures import architecture
from models.architectures.spec import Trainable
from models.config import NetworkConfig

V = 7


def small(name: str, **changes: object) -> NetworkConfig:
    """Return the architecture's default shape, made small."""
    network = architecture(name).network
    shape = {"units": 6, "embedding": network.embedding and 3, "dropout": 0.0}
    return network.model_copy(update=shape | changes)


def perturbed(config: NetworkConfig, *, seed: int = 5) -> Trainable:
    """Return a network of random weights."""
    random = np.random.default_rng(seed)
    frequencies = random.dirichlet(np.ones(V))
    network = architecture(config.architecture).build(config, frequencies, seed=2)
    for variable in network.variables:
        variable.assign(variable.numpy() + random.normal(scale=0.3, size=variable.shape).astype("f"))
    return network


def some_ids(steps: int, rows: int, *, least: int = 1) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return ids (T, B); with `least` 0 there are unknown characters among them."""
    return np.random.default_rng(9).integers(least, V, (steps, rows)).astype(np.int32)
