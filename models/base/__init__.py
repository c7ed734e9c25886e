"""The base models of the package: small networks that know a kind of text before they read a user's.

Each is a file <name>.npz with int8 weights and a float32 scale per column, the vocabulary and the network's
shape. What they are trained on is in sources.toml; benchmarks.base_models trains them.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import count_parameters
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import NotFound
from nextchar.models.kernels.lstm_weights import with_input_gate, without_input_gate
from nextchar.models.saved_model import Card
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.vocabulary import code_points

BASES_FOLDER = Path(__file__).parent
_PREFIX, _VERSION = "base/", 1  # the version changes with the weights
_SCALE = ".scale"


@dataclass(frozen=True)
class BaseModel:
    """A network that is trained beforehand: its name, its vocabulary in order of ids, shape and weights.

    The weights are named as `models.architectures.onnx_graph` names them.
    """

    name: str
    characters: str
    network: NetworkConfig
    weights: dict[str, NDArray[np.float32]]

    @property
    def card(self) -> Card:
        """What a job that starts from it has to know; its files are not those of a saved model."""
        return Card(
            id=f"base_{self.name}",
            name=_PREFIX + self.name,
            version=_VERSION,
            created_at=0,
            network=self.network,
            training=TrainingConfig(),
            characters=self.characters,
            parameters=count_parameters(self.network, len(self.characters) + 1),
            files={},
        )


def dump_base(base: BaseModel) -> bytes:
    """Return the file of a base model."""
    arrays: dict[str, NDArray[np.generic]] = {
        "network": np.frombuffer(base.network.model_dump_json().encode(), np.uint8),
        "characters": code_points(base.characters).astype(np.uint32),
    }
    for name, array in base.weights.items():
        weights = without_input_gate(array) if _has_input_gate(base.network, name) else array
        if weights.ndim < 2:
            arrays[name] = weights.astype(np.float32)
            continue
        scale = np.maximum(np.abs(weights).max(axis=0), 1e-12) / 127
        arrays[name] = np.rint(weights / scale).astype(np.int8)
        arrays[name + _SCALE] = scale.astype(np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


@cache
def base_references() -> tuple[str, ...]:
    """Return the names, with versions, of the base models that the package has."""
    return tuple(sorted(f"{_PREFIX}{path.stem}@{_VERSION}" for path in BASES_FOLDER.glob("*.npz")))


def is_base(reference: str) -> bool:
    """Return whether a model's name is that of a base model; names of users' models have no slash."""
    return reference.startswith(_PREFIX)


def find_base(reference: str) -> BaseModel:
    """Return the base model `base/<name>` or `base/<name>@<version>`.

    Raises:
        NotFound: the package has none of that name and version (code `base_not_found`).
    """
    name, _, version = reference.partition("@")
    if f"{name}@{version or _VERSION}" not in base_references():
        names = ", ".join(base_references())
        raise NotFound(f"there is no base model {reference}; there are {names}", code="base_not_found")
    name = name.removeprefix(_PREFIX)
    return load_base((BASES_FOLDER / f"{name}.npz").read_bytes(), name)


def load_base(data: bytes, name: str) -> BaseModel:
    """Return the base model in a file."""
    arrays = read_arrays(data)
    network = NetworkConfig(**json.loads(arrays.pop("network").tobytes()))
    characters = "".join(map(chr, arrays.pop("characters").tolist()))
    weights: dict[str, NDArray[np.float32]] = {}
    for key in [key for key in arrays if not key.endswith(_SCALE)]:
        array = arrays[key] * arrays.get(key + _SCALE, np.float32(1))
        weights[key] = with_input_gate(array, sign=-1) if _has_input_gate(network, key) else array
    return BaseModel(name, characters, network, weights)


def _has_input_gate(network: NetworkConfig, weights: str) -> bool:
    return network.coupled_gates and weights.startswith("lstm")
