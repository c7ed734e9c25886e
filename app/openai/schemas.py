"""Completions in OpenAI's shape. A token is a character; lengths are in characters.

docs/reference/openai-api.md lists for every field whether it is supported, approximated or refused.

The route class of OpenAI's calls: status 400 where other routes respond with 422, as its SDKs expect.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.completions.schemas import (
    MAX_COMPLETION_CHARACTERS,
    MAX_COMPLETIONS,
    MAX_PROMPT_CHARACTERS,
    StopString,
    Suffix,
    Text,
)
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.schemas import ErrorBody, RequestBody, Shape, with_examples
from nextchar.models.runtime.requests import Expert, Precision, Until

MAX_PROMPTS = 1024

EXAMPLE_CREATE: dict[str, Any] = {
    "model": "nietzsche", "prompt": "morality equals ", "max_tokens": 40, "temperature": 0.7, "seed": 1,
    "stop": "\n",
}  # fmt: skip

EXAMPLE: dict[str, Any] = {
    "id": "cmpl-5f6708192a3b4c5d6e7f8091", "object": "text_completion", "created": 1795563800,
    "model": "nietzsche@1", "system_fingerprint": "nietzsche@1",
    "choices": [
        {"index": 0, "text": "the same thing as the spirit,", "finish_reason": "stop", "logprobs": None},
    ],
    "usage": {
        "prompt_tokens": 16, "completion_tokens": 29, "total_tokens": 45,
        "prompt_tokens_details": {"cached_tokens": 15},
    },
}  # fmt: skip

Id = Annotated[int, Field(ge=0)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
Prompts = (
    Text
    | Ids
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
)


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: bool = False
    """One more chunk at the end, with no choices and the usage."""
    include_obfuscation: bool = Field(False, description="Accepted; nothing is padded.")


class OpenAICompletionCreate(RequestBody):
    """Complete one or several prompts (OpenAI's completion request)."""

    model_config = with_examples(EXAMPLE_CREATE)

    model: str = Field("", max_length=128, description="Empty: the default model.")
    prompt: Prompts | None = None
    """A text or several; or lists of this model's character ids, as /tokenize has them."""
    max_tokens: int | None = Field(16, ge=0, le=MAX_COMPLETION_CHARACTERS)
    """0 generates nothing: with `echo` it scores."""
    n: int | None = Field(1, ge=1, le=MAX_COMPLETIONS, description="Completions of each prompt.")
    best_of: int | None = Field(None, ge=1, le=MAX_COMPLETIONS)
    """Generate this many candidates and return the most likely `n`."""
    temperature: float | None = Field(1.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float | None = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    echo: bool | None = False
    logprobs: int | None = Field(None, ge=0, le=20, description="OpenAI's limit is 5.")
    logit_bias: dict[str, float] | None = None
    """Added to the logits, by character id; from -100 (never) to 100 (always)."""
    presence_penalty: float | None = Field(0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2)
    suffix: Suffix | None = None
    user: str | None = None
    """An id of your end user, whose cached states no other user of your key shares."""
    # Extensions; in `extra_body` of OpenAI's Python SDK.
    top_k: int | None = Field(None, ge=1, le=100_000, description="As in /v1/models/{model}/complete.")
    min_p: float | None = Field(None, ge=0, le=1, description="As in /v1/models/{model}/complete.")
    until: Until | None = Field(None, description="As in /v1/models/{model}/complete.")
    precision: Precision = Field("auto", description="As in /v1/models/{model}/complete.")
    expert: Expert = Field("mixture", description="As in /v1/models/{model}/complete.")
    timeout_ms: int | None = Field(None, ge=1, le=600_000)
    """As in /v1/models/{model}/complete, for each prompt."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        made = max(self.n or 1, self.best_of or 0)
        count = (
            len(self.prompt) if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else 1
        )
        if made * count * (self.max_tokens or 0) > 100_000:
            raise ValueError("prompts times n (or best_of) times max_tokens may be at most 100,000")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError("best_of, the number of candidates, is less than n")
        if self.best_of is not None and self.best_of > 1 and self.stream:
            raise ValueError("best_of cannot be combined with stream: the best is only known at the end")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        return self


class Logprobs(BaseModel):
    """One list entry per character; natural logarithms, at temperature 1 and without filters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class OpenAIChoice(BaseModel):
    """One completion of one prompt, or in a stream the next part of it."""

    index: int = Field(description="Prompts in order, and within each its `n` completions.")
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: Logprobs | None = None


class CachedTokens(BaseModel):
    """How much of the prompts was in the state cache."""

    cached_tokens: int


class OpenAIUsage(BaseModel):
    """The characters that the request processed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class OpenAICompletion(Shape):
    """The response, and each chunk of a stream."""

    model_config = with_examples(EXAMPLE)

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Unix seconds, UTC.")
    model: str = Field(description="The `name@version` that was used.")
    system_fingerprint: str
    """The same as `model`: while it is unchanged, a seed gives the same text."""
    choices: list[OpenAIChoice]
    usage: OpenAIUsage | None = None


NOT_422: dict[int | str, dict[str, Any]] = {
    422: {
        "model": ErrorBody,
        "description": "Never sent: like OpenAI's, this call responds with 400 instead.",
    },
    400: {"model": ErrorBody, "description": "The body or a field is invalid; `param` names it."},
}


class OpenAIRoute(DocumentRoute):
    """Responds with 400 to invalid fields."""

    invalid_status = 400
