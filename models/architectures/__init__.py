"""The network architectures, a module for each family; the only part of `models` that uses Keras.

To add one, write its module with the `Architecture` in it, under its name in capitals, and add the name to
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

_MODULES = {
    "three_char": "nth_char",
    "sequence_rnn": "simple_rnn",
    "onehot_rnn": "simple_rnn",
    "numpy_rnn": "scan_rnn",
    "stateful_lstm_lesson": "stateful_lstm",
}
"""The modules of architectures that have none of their own."""


@cache
def architecture(name: str) -> Architecture:
    """Return an architecture by name. Raises InvalidInput, with the list of all names."""
    if name not in NAMES:
        raise InvalidInput(
            f"there is no architecture {name!r}; choose one of {', '.join(NAMES)}",
            code="unknown_architecture",
            param="architecture",
        )
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    return cast(Architecture, getattr(module, name.upper()))


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


_PROCESS_BYTES = 600_000_000  # a process with TensorFlow, before it trains anything


def count_parameters(network: NetworkConfig, vocabulary_size: int) -> int:
    """Return the number of weights for a vocabulary of V ids."""
    return architecture(network.architecture).parameters(network, vocabulary_size)


def estimate_training_bytes(network: NetworkConfig, training: TrainingConfig, vocabulary_size: int) -> int:
    """Return the bytes a training process needs at its peak, within a factor of about 1.5.

    Sixteen copies of the weights: weights, gradients of two replicas, two AdamW moments and the best weights
    (6); a checkpoint's weights and moments, in memory and as a file (7); the checkpoint for a rollback (3).
    Preconditioning has two (H, H) arrays per layer, six with those of checkpoints, and as much again while it
    multiplies. Activations are the gates, states and logits of one window, forward and backward.
    """
    weights = 16 * count_parameters(network, vocabulary_size)
    if training.preconditioning:
        weights += 12 * network.layers * network.units**2
    floats = architecture(network.architecture).activation_floats_per_character(network, vocabulary_size)
    activations = training.rows * training.window * floats
    return 4 * (weights + activations) + _PROCESS_BYTES


def check_memory(
    network: NetworkConfig, training: TrainingConfig, vocabulary_size: int, limit_bytes: int
) -> None:
    """Raise InvalidInput if training needs more than `limit_bytes`; the message has the estimate."""
    needed = estimate_training_bytes(network, training, vocabulary_size)
    if needed > limit_bytes:
        raise InvalidInput(
            f"training this network needs about {needed / 2**30:.1f} GiB and the limit is"
            f" {limit_bytes / 2**30:.1f} GiB; use fewer units, layers or rows, or a shorter window",
            code="network_too_large",
            param="network",
        )
