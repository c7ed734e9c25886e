"""Which options of a completion are valid, at their bounds, and what is said of the others."""

import math
from typing import Any

import pytest

from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import MAX_BEAM, CompletionRequest, check_bias, check_request

EXCLUDED = "cannot be used with beam"


def request(**options: Any) -> CompletionRequest:
    return CompletionRequest(prompt="", **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_characters": 1, "n": 1, "temperature": 0, "top_k": 1, "top_p": 1e-9, "min_p": 0, "seed": 0},
        {"temperature": 1e9, "top_p": 1, "min_p": 1, "logprobs": 0, "no_repeat": 1, "stop": ("a",)},
        {"logit_bias": ((1, -1e9),), "presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"temperature": 0.5, "until": "confidence", "length_penalty": 99},  # without a beam it does nothing
        {"beam": 1},
        {"beam": 3, "n": 3, "temperature": 0, "length_penalty": 0, "until": "word", "stop": ("a",)},
        {"beam": MAX_BEAM, "length_penalty": 10},
    ],
)
def test_values_at_the_bounds_are_valid(options: dict[str, Any]) -> None:
    check_request(request(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_characters": 0}, "max_characters must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"temperature": -1e-9}, "temperature must be a finite number, at least 0"),
        ({"temperature": math.inf}, "temperature must be a finite number, at least 0"),
        ({"temperature": math.nan}, "temperature must be a finite number, at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1"),
        ({"min_p": -0.01}, "min_p must be from 0 to 1"),
        ({"min_p": 1.01}, "min_p must be from 0 to 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"stop": ("a", "")}, "stop must not hold an empty string"),
        ({"logprobs": -1}, "logprobs must be at least 0"),
        ({"no_repeat": 0}, "no_repeat must be at least 1"),
        ({"logit_bias": ((1, 0.0), (2, math.inf))}, "logit_bias must be finite numbers"),
        ({"presence_penalty": math.nan}, "presence_penalty must be a finite number"),
        ({"frequency_penalty": -math.inf}, "frequency_penalty must be a finite number"),
        ({"typed": 3}, "typed needs beam"),
        ({"beam": 0}, f"beam must be from 1 to {MAX_BEAM}"),
        ({"beam": MAX_BEAM + 1}, f"beam must be from 1 to {MAX_BEAM}"),
        ({"beam": 2, "n": 3}, "n cannot be larger than beam"),
        ({"beam": 2, "temperature": 0.9}, f"temperature {EXCLUDED}, which takes the likeliest"),
        ({"beam": 2, "until": "confidence"}, f'until "confidence" {EXCLUDED}'),
        ({"beam": 2, "length_penalty": -0.1}, "length_penalty must be from 0 to 10"),
        ({"beam": 2, "length_penalty": 10.1}, "length_penalty must be from 0 to 10"),
        ({"beam": 2, "logit_bias": ((1, 1.0),)}, f"logit_bias {EXCLUDED}"),
        ({"beam": 2, "presence_penalty": 0.1}, f"presence_penalty {EXCLUDED}"),
        ({"beam": 2, "frequency_penalty": 0.1}, f"frequency_penalty {EXCLUDED}"),
        ({"beam": 2, "top_k": 1}, f"top_k {EXCLUDED}"),
        ({"beam": 2, "top_p": 1.0}, f"top_p {EXCLUDED}"),
        ({"beam": 2, "min_p": 0.0}, f"min_p {EXCLUDED}"),
        ({"beam": 2, "seed": 0}, f"seed {EXCLUDED}"),
        ({"beam": 2, "logprobs": 0}, f"logprobs {EXCLUDED}"),
        ({"beam": 2, "no_repeat": 1}, f"no_repeat {EXCLUDED}"),
    ],
)
def test_other_values_are_refused_with_the_field_and_what_it_must_be(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_request(request(**options))
    assert (caught.value.param, caught.value.message) == (message.partition(" ")[0], message)


@pytest.mark.parametrize(("an_id", "is_valid"), [(0, False), (1, True), (4, True), (5, False)])
def test_biases_name_characters_of_the_model(an_id: int, is_valid: bool) -> None:
    biased = request(logit_bias=((2, 1.0), (an_id, 1.0)))
    if is_valid:
        check_bias(biased, 5)
        return
    with pytest.raises(InvalidInput, match=f"names {an_id}; .* ids from 1 to 4$") as caught:
        check_bias(biased, 5)
    assert caught.value.param == "logit_bias"
