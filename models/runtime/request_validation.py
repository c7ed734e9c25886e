"""Validation of completion requests. The API's schemas have narrower limits."""

import math

from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import CompletionRequest

MAX_BEAM = 64


def check_request(request: CompletionRequest) -> None:
    """Raise InvalidInput, which names the field, if an option is out of range or contradicts another."""
    r = request
    rules = {
        "max_characters": (r.max_characters >= 1, "must be at least 1"),
        "n": (r.n >= 1, "must be at least 1"),
        "temperature": (0 <= r.temperature < math.inf, "must be a finite number, at least 0"),
        "top_k": (r.top_k is None or r.top_k >= 1, "must be at least 1"),
        "top_p": (r.top_p is None or 0 < r.top_p <= 1, "must be above 0 and at most 1"),
        "min_p": (r.min_p is None or 0 <= r.min_p <= 1, "must be from 0 to 1"),
        "seed": (r.seed is None or r.seed >= 0, "must be at least 0"),
        "stop": (all(r.stop), "must not hold an empty string"),
        "logprobs": (r.logprobs is None or r.logprobs >= 0, "must be at least 0"),
        "no_repeat": (r.no_repeat is None or r.no_repeat >= 1, "must be at least 1"),
        "logit_bias": (all(math.isfinite(b) for _, b in r.logit_bias), "must be finite numbers"),
        "presence_penalty": (math.isfinite(r.presence_penalty), "must be a finite number"),
        "frequency_penalty": (math.isfinite(r.frequency_penalty), "must be a finite number"),
        "beam": (r.beam is None or 1 <= r.beam <= MAX_BEAM, f"must be from 1 to {MAX_BEAM}"),
    }
    _apply(rules)
    if r.beam is not None:
        _check_beam(r, r.beam)


def check_bias(request: CompletionRequest, vocabulary_size: int) -> None:
    """Raise InvalidInput if `logit_bias` names an id that a model with V ids does not generate."""
    for an_id, _ in request.logit_bias:
        if not 1 <= an_id < vocabulary_size:
            raise InvalidInput(
                f"logit_bias names {an_id}; this model's characters have ids from 1 to {vocabulary_size - 1}",
                param="logit_bias",
            )


def _check_beam(r: CompletionRequest, beam: int) -> None:
    excluded = "cannot be used with beam"
    rules = {
        "n": (r.n <= beam, "cannot be larger than beam"),
        "temperature": (r.temperature in (0, 1), excluded + ", which takes the likeliest"),
        "until": (r.until != "confidence", '"confidence" ' + excluded),
        "length_penalty": (0 <= r.length_penalty <= 10, "must be from 0 to 10"),
        "logit_bias": (not r.logit_bias, excluded),
        "presence_penalty": (not r.presence_penalty, excluded),
        "frequency_penalty": (not r.frequency_penalty, excluded),
    }
    for name in ("top_k", "top_p", "min_p", "seed", "logprobs", "no_repeat"):
        rules[name] = (getattr(r, name) is None, excluded)
    _apply(rules)


def _apply(rules: dict[str, tuple[bool, str]]) -> None:
    for name, (holds, message) in rules.items():
        if not holds:
            raise InvalidInput(f"{name} {message}", param=name)
