"""The network architectures, one module each; the only part of `models` that uses Keras.

To add one, write its module with an ARCHITECTURE in it, and add its name to
`nextchar.models.config.ArchitectureName`.
"""

import importlib
from collections.abc import Collection
from functools import cache
from typing import cast, get_args

from nextchar.models.architectures.spec import Architecture
from nextchar.models.config import ArchitectureName, NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput

NAMES: tuple[ArchitectureName, ...] = get_args(ArchitectureName)
DEFAULT: ArchitectureName = "stateful_lstm"


@cache
def architecture(name: str) -> Architecture:
    """Return an architecture by name. Raises InvalidInput, with the list of all names."""
    if name not in NAMES:
        raise InvalidInput(
            f"there is no architecture {name!r}; choose one of {', '.join(NAMES)}",
            code="unknown_architecture",
            param="architecture",
        )
    return cast(Architecture, importlib.import_module(f"{__name__}.{name}").ARCHITECTURE)


def check_options(name: str, *, network: Collection[str], training: Collection[str]) -> None:
    """Raise InvalidInput for a field of `network` or `training` that the architecture has no option for."""
    spec = architecture(name)
    for section, fields, options in (
        ("network", network, spec.network_options),
        ("training", training, spec.training_options),
    ):
        for field in fields:
            if field not in options:
                raise InvalidInput(
                    f"{section}.{field}: {name} has no such option; it has {', '.join(options) or 'none'}",
                    code="option_not_available",
                    param=f"{section}.{field}",
                )


def resolve_training(network: NetworkConfig, training: TrainingConfig) -> TrainingConfig:
    """Return `training` with the window length that the network implies, if it implies one."""
    if architecture(network.architecture).has_independent_windows and network.context:
        return training.model_copy(update={"window": network.context})
    return training
