"""Completions and next-character distributions. Lengths are in characters after Unicode NFC."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.base import RequestBody
from models.runtime.request_validation import MAX_BEAM
from models.runtime.requests import FinishReason, Precision, Until

MAX_PROMPT_CHARACTERS = 1_000_000
MAX_COMPLETION_CHARACTERS = 10_000
MAX_COMPLETIONS = 64

EXAMPLE_CREATE: dict[str, Any] = {
    "prompt": "morality equals ",
    "max_characters": 40,
    "temperature": 0.7,
    "seed": 1,
    "until": "line",
}

EXAMPLE_BEAM: dict[str, Any] = {
    "prompt": "morality equals ",
    "max_characters": 20,
    "n": 2,
    "beam": 8,
    "length_penalty": 0.7,
    "timeout_ms": 50,
}

EXAMPLE_DESCRIBED: dict[str, Any] = {
    "prompt": "morality",
    "max_characters": 5,
    "temperature": 0,
    "logprobs": 3,
    "echo": True,
    "precision": "float32",
}

EXAMPLE: dict[str, Any] = {
    "object": "completion",
    "model": "nietzsche@1",
    "completions": [
        {
            "index": 0,
            "text": "the same thing as the spirit,",
            "finish_reason": "line",
            "bits": 51.2,
        }
    ],
    "usage": {
        "prompt_characters": 16,
        "cached_characters": 15,
        "completion_characters": 29,
    },
    "unknown_characters": [],
}

Prompt = Annotated[
    str,
    Field(
        max_length=MAX_PROMPT_CHARACTERS,
        description="The text to go on from; it may be empty.",
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=200)]


class CompletionCreate(RequestBody):
    """Go on from a prompt. Options that contradict each other are refused with a sentence naming both."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [EXAMPLE_CREATE, EXAMPLE_BEAM, EXAMPLE_DESCRIBED]}
    )

    prompt: Prompt
    max_characters: int = Field(
        40,
        ge=1,
        le=MAX_COMPLETION_CHARACTERS,
        description="The longest completion, in characters.",
    )
    n: int = Field(1, ge=1, le=MAX_COMPLETIONS, description="How many completions.")
    temperature: float = Field(
        1.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="0 takes the likeliest character every time.",
    )
    top_k: int | None = Field(None, ge=1, le=100_000, description="Choose among the k likeliest only.")
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Choose among the likeliest that together reach this probability.",
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Choose among those at least this share as likely as the likeliest.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The same seed gives the same text, alone or under load; another one in another"
        " `precision`. Null takes a new one.",
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = Field(
        None,
        description="End before this text, or before the first of these. One with characters that the model"
        " has never seen is no error; it cannot come.",
    )
    until: Until | None = Field(
        None,
        description="End with a word, before the end of the line, or before the model becomes unsure.",
    )
    confidence_bits: float = Field(
        2.0,
        gt=0,
        le=64,
        description='`"until": "confidence"` ends before a step of more entropy than this.',
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the natural log-probability of each character, with this many of the likeliest"
        " at its place; at temperature 1 and without filters.",
    )
    echo: bool = Field(
        False,
        description="Begin each completion's text with the prompt, and its `logprobs` with the prompt's"
        " characters as `/score` has them. `bits` and `usage` are of what was generated all the same.",
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=MAX_COMPLETIONS,
        description="Make this many completions and answer with the `n` that have the fewest bits per"
        " character. Not with `stream` or `beam`.",
    )
    beam: int | None = Field(
        None,
        ge=1,
        le=MAX_BEAM,
        description="Search for the `n` likeliest completions as wholes, keeping this many at each step. Not"
        " with `seed`, `logprobs`, `no_repeat`, a `temperature` but 0 or 1, or filters.",
    )
    length_penalty: float = Field(
        1.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="With `beam`: completions are compared by log-probability / characters ** this."
        " 0 favours short ones.",
    )
    no_repeat: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Never generate a run of this many characters that the completion, or the last 1,000"
        " characters of the prompt, already has.",
    )
    precision: Precision = Field(
        "auto",
        description="`float32`: the network as it was trained. `int8`: faster; the same distribution to"
        " within the `int8` figure of the model's report. `auto`: int8 where the model has it; but float32"
        " for a `seed` where int8 depends on what else is computed with it, as in models that are no LSTMs.",
    )
    timeout_ms: int | None = Field(
        None,
        ge=1,
        le=600_000,
        description="After this long, answer with what there is and the `finish_reason` `timeout`."
        " Milliseconds from the request's arrival.",
    )
    stream: bool = Field(False, description="Answer with server-sent events, as the characters come.")

    @model_validator(mode="after")
    def _bounded_work(self) -> Self:
        if max(self.n, self.best_of or 0, self.beam or 0) * self.max_characters > 100_000:
            raise ValueError("n (or best_of, or beam) times max_characters may be at most 100,000")
        return self


class AlternativeBody(BaseModel):
    """A character and its log-probability (natural)."""

    character: str
    logprob: float


class LogprobBody(AlternativeBody):
    """The generated character at one place, and the likeliest ones there."""

    top: list[AlternativeBody]


class CompletionChoice(BaseModel):
    """One completion of the prompt."""

    index: int
    text: str
    finish_reason: FinishReason = Field(
        description="Why it ends here: `length` is `max_characters`; `stop`, `word`, `line` and `confidence`"
        " were asked for; `timeout` and `cancelled` are not its end but all that there was time for."
    )
    bits: float = Field(description="Surprisal of all generated characters together, -log2 p.")
    logprobs: list[LogprobBody] | None = Field(None, description="Only when asked for.")


class UsageBody(BaseModel):
    """What the request cost, in characters."""

    prompt_characters: int
    cached_characters: int = Field(description="How much of the prompt was known already.")
    completion_characters: int


class CompletionBody(BaseModel):
    """All completions of a prompt."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    object: Literal["completion"] = "completion"
    model: str = Field(description="The `name@version` that answered.")
    completions: list[CompletionChoice]
    usage: UsageBody
    unknown_characters: list[str] = Field(
        description="The distinct characters of the prompt that the model has never seen."
    )


class PieceBody(BaseModel):
    """Streamed as event `piece`: some more text of one completion."""

    index: int
    text: str
    logprobs: list[LogprobBody] | None = None


class FinishedBody(BaseModel):
    """Streamed as event `finished`: one completion is over."""

    index: int
    finish_reason: FinishReason
    bits: float
    characters: int


class CompletionEnd(BaseModel):
    """Streamed last, as event `done`."""

    model: str
    usage: UsageBody
    unknown_characters: list[str]


class NextCreate(RequestBody):
    """Ask what the next character may be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "phil", "top": 3}]})

    prompt: Prompt
    top: int = Field(10, ge=1, le=1000, description="How many of the likeliest characters.")
    temperature: float = Field(
        1.0,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="Divides the logits before the softmax.",
    )


class CandidateBody(BaseModel):
    """A character and its probability."""

    character: str
    probability: float


class DistributionBody(BaseModel):
    """The distribution of the next character; the likeliest candidates first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "distribution",
                    "model": "nietzsche@1",
                    "entropy_bits": 0.4,
                    "candidates": [{"character": "o", "probability": 0.93}],
                    "unknown_characters": [],
                }
            ]
        }
    )

    object: Literal["distribution"] = "distribution"
    model: str
    entropy_bits: float
    candidates: list[CandidateBody]
    unknown_characters: list[str]
