"""Small networks of every architecture, with random weights that all matter."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nextchar.models.architectures import architecture
from nextchar.models.architectures.spec import Differentiable, Trainable
from nextchar.models.config import NetworkConfig
from nextchar.worker.evaluation import keras_file

V = 7


def small(name: str, **changes: object) -> NetworkConfig:
    """Return the architecture's default shape with fewer units."""
    network = architecture(name).network
    shape = {"units": 6, "embedding": network.embedding and 3, "dropout": 0.0}
    return network.model_copy(update=shape | changes)


def perturbed(config: NetworkConfig, *, seed: int = 5) -> Differentiable:
    """Return a network of random weights."""
    random = np.random.default_rng(seed)
    frequencies = random.dirichlet(np.ones(V))
    network = architecture(config.architecture).build(config, frequencies, seed=2)
    for variable in network.variables:
        variable.assign(variable.numpy() + random.normal(scale=0.3, size=variable.shape).astype("f"))
    return network


def random_ids(steps: int, rows: int, *, min_id: int = 1) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return ids (T, B); `min_id` 0 includes unknown characters."""
    return np.random.default_rng(9).integers(min_id, V, (steps, rows)).astype(np.int32)


def loaded_by_keras(network: Trainable) -> Any:
    """Return what Keras loads from the `.keras` file of a network."""
    import keras  # takes seconds

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(keras_file(network))
        return keras.saving.load_model(path)
