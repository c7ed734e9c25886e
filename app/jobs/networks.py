"""The network and recipe of a new job: those of a preset, and the job's own fields."""

from typing import Any

from nextchar.app.jobs.schemas import JobCreate
from nextchar.models.architectures import (
    DEFAULT,
    architecture,
    check_memory,
    estimate_training_bytes,
    resolve_training,
)
from nextchar.models.auto_preset import RULES, WITHOUT_SECONDS, Candidate, Rule, nearest_presets
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.models.saved_model import Card


def network_and_recipe(
    body: JobCreate,
    start: Card | None,
    *,
    vocabulary_size: int,
    memory_limit_bytes: int,
    learning_rate_multiplier: float,
) -> dict[str, Any]:
    """Return the fields of the JobRequest that say which network is trained, and how.

    `start` is the model that training starts from, whose network the job has. A network that needs more
    memory than the limit is not a candidate of preset `auto`.

    Raises:
        InvalidInput: no network fits the memory (code `network_too_large`), the architecture has no presets
            (`option_not_available`), or the multiplied rate is out of range.
    """
    if body.architecture != DEFAULT:
        if body.preset != "auto":
            raise InvalidInput(
                f"preset: only {DEFAULT} has presets; leave preset out for {body.architecture}",
                code="option_not_available",
                param="preset",
            )
        own = architecture(body.architecture)
        network, training = _with_overrides(body, start, own.network, own.training, learning_rate_multiplier)
        check_memory(network, training, vocabulary_size, memory_limit_bytes)
        return {"network": network, "training": training}
    candidates = []
    for rule in _rules(body, start):
        network, training = _with_overrides(
            body, start, rule.network, rule.training, learning_rate_multiplier
        )
        candidates.append(
            Candidate(
                preset=rule.preset,
                min_steps=rule.min_steps,
                min_characters=rule.min_characters,
                network=network,
                training=training,
            )
        )
    first, *larger = candidates
    check_memory(first.network, first.training, vocabulary_size, memory_limit_bytes)
    fitting = [
        one
        for one in larger
        if estimate_training_bytes(one.network, one.training, vocabulary_size) <= memory_limit_bytes
    ]
    fields: dict[str, Any] = {"preset": body.preset, "network": first.network, "training": first.training}
    if fitting:
        return fields | {"candidates": (first, *fitting)}
    return fields | {"chosen_preset": first.preset if body.preset == "auto" else None}


def _rules(body: JobCreate, start: Card | None) -> list[Rule]:
    """Return the preset's rule, or those that `auto` chooses from, smallest first."""
    if body.preset != "auto":
        return [Rule(body.preset, 0)]
    if start:  # the network is fixed
        return [Rule(nearest_presets(layers=start.network.layers, units=start.network.units)[0], 0)]
    nearest = nearest_presets(layers=body.network.layers, units=body.network.units)
    if body.budget.seconds is not None:
        return [rule for rule in RULES if rule.preset in nearest]
    return [Rule(WITHOUT_SECONDS if WITHOUT_SECONDS in nearest else nearest[0], 0)]


def _with_overrides(
    body: JobCreate,
    start: Card | None,
    network: NetworkConfig,
    training: TrainingConfig,
    learning_rate_multiplier: float,
) -> tuple[NetworkConfig, TrainingConfig]:
    """Return a preset's network and recipe with the fields of the request, which take precedence.

    The network is that of the model that training starts from, if any.
    """
    rate = training.learning_rate * learning_rate_multiplier
    if not 0 < rate <= 1:
        raise InvalidInput(
            f"learning_rate: {rate:g} is not in (0, 1]; use another multiplier", param="learning_rate"
        )
    network = NetworkConfig(
        **(start.network if start else network).model_dump()
        | body.network.model_dump(exclude_none=True)
        | {"architecture": body.architecture}
    )
    training = TrainingConfig(
        **training.model_dump(exclude={"budget"})
        | {"learning_rate": rate}
        | body.training.model_dump(exclude_none=True)
        | {"validation_fraction": body.validation_fraction, "seed": body.seed},
        budget=Budget(**body.budget.model_dump()),
    )
    return network, resolve_training(network, training)
