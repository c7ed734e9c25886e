"""The networks that can be trained, one file a family. The only part of `models` that uses Keras.

To add one, write its file, with an ARCHITECTURE in it, and its name into `models.config.ArchitectureName`.
"""

import importlib
from collections.abc import Collection
from functools import cache
from typing import cast, get_args

from models.architectures.spec import Architecture
from models.config import ArchitectureName, NetworkConfig, TrainingConfig
from models.errors import InvalidInput

NAMES: tuple[ArchitectureName, ...] = get_args(ArchitectureName)
DEFAULT: ArchitectureName = "stateful_lstm"


@cache
def architecture(name: str) -> Architecture:
    """Return what the file of that name says of itself. Raises InvalidInput, with all names."""
    if name not in NAMES:
        raise InvalidInput(
            f"there is no architecture {name!r}; there are {', '.join(NAMES)}",
            code="unknown_architecture",
            param="architecture",
        )
    return cast(Architecture, importlib.import_module(f"{__name__}.{name}").ARCHITECTURE)


def check_options(name: str, *, network: Collection[str], training: Collection[str]) -> None:
    """Raise InvalidInput, naming the field, when an option is given that the architecture does not have."""
    known = architecture(name)
    for part, given, options in (
        ("network", network, known.network_options),
        ("training", training, known.training_options),
    ):
        for field in given:
            if field not in options:
                raise InvalidInput(
                    f"{part}.{field}: {name} has no such option; it has {', '.join(options) or 'none'}",
                    code="option_not_available",
                    param=f"{part}.{field}",
                )


def resolve_training(network: NetworkConfig, training: TrainingConfig) -> TrainingConfig:
    """Return the recipe with what follows from the network filled in: the length of its windows."""
    if architecture(network.architecture).reads_windows_alone and network.context:
        return training.model_copy(update={"window": network.context})
    return training
