"""Completions and next-character distributions. Lengths are in characters after Unicode NFC."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.app.models.schemas import Early
from nextchar.models.runtime.requests import (
    MAX_BEAM,
    CandidateBody,
    Expert,
    FinishReason,
    Precision,
    Until,
    Usage,
)

MAX_PROMPT_CHARACTERS = 1_000_000
MAX_COMPLETION_CHARACTERS = 10_000
MAX_COMPLETIONS = 64

EXAMPLE_CREATE: dict[str, Any] = {
    "prompt": "morality equals ", "max_characters": 40, "temperature": 0.7, "seed": 1, "until": "line",
}  # fmt: skip

EXAMPLE_BEAM: dict[str, Any] = {
    "prompt": "morality equals ", "max_characters": 20, "n": 2, "beam": 8, "length_penalty": 0.7,
    "timeout_ms": 50,
}  # fmt: skip

EXAMPLE_DESCRIBED: dict[str, Any] = {
    "prompt": "morality", "max_characters": 5, "temperature": 0, "logprobs": 3, "echo": True,
    "precision": "float32",
}  # fmt: skip

EXAMPLE: dict[str, Any] = {
    "object": "completion", "model": "nietzsche@1", "early": False,
    "completions": [
        {"index": 0, "text": "the same thing as the spirit,", "finish_reason": "line", "bits": 51.2},
    ],
    "usage": {"prompt_characters": 16, "cached_characters": 15, "completion_characters": 29},
    "unknown_characters": [],
}  # fmt: skip

Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Prompt = Annotated[Text, Field(description="The text to complete; it may be empty.")]
Suffix = Annotated[
    str,
    Field(
        max_length=MAX_PROMPT_CHARACTERS,
        description="The text after the cursor. Several completions are generated; returned are those that"
        " are likeliest together with its first characters; they end before what it repeats. With `stream`"
        " the text comes at once.",
    ),
]
ModelInBody = Annotated[
    str, Field(max_length=128, description="Default: that of the query or the path, or the default model.")
]
ExpertField = Annotated[
    Expert,
    Field(
        description="`mixture`: what the model predicts with, its network together with contexts of its text."
        " `network` or `lstm`: the network alone. Older models have only the network, which serves both then."
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=200)]


class CompletionCreate(RequestBody):
    """Complete a prompt. Options that contradict each other are refused with a message that names both."""

    model_config = with_examples(EXAMPLE_CREATE, EXAMPLE_BEAM, EXAMPLE_DESCRIBED)

    prompt: Prompt
    max_characters: int = Field(40, ge=1, le=MAX_COMPLETION_CHARACTERS)
    """The longest completion, in characters."""
    n: int = Field(1, ge=1, le=MAX_COMPLETIONS, description="How many completions.")
    temperature: float = Field(1.0, ge=0, le=10, allow_inf_nan=False)
    """0 always selects the likeliest character."""
    top_k: int | None = Field(None, ge=1, le=100_000, description="Sample from the k likeliest characters.")
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample from the likeliest characters that together have this probability."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample from the characters whose probability is at least this fraction of the highest."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text on the same kind of processor, alone or under load; a different one
    in another `precision`. Null chooses a new one."""
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    """End before this text, or before the first of these. One with characters outside the vocabulary is not
    an error; it never matches."""
    until: Until | None = None
    """End with a word, before the end of the line, or before the model becomes uncertain."""
    confidence_bits: float = Field(2.0, gt=0, le=64)
    """`"until": "confidence"` ends before a character whose entropy exceeds this."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """Report the natural log-probability of each character, with this many of the likeliest alternatives; at
    temperature 1 and without filters."""
    suffix: Suffix = ""
    echo: bool = False
    """Begin each completion's text with the prompt, and its `logprobs` with those of the prompt, read from
    the start of a line. `bits` and `usage` count generated characters only."""
    best_of: int | None = Field(None, ge=1, le=MAX_COMPLETIONS)
    """Generate this many completions, return the `n` with the fewest bits per character. Not with `stream` or
    `beam`."""
    beam: int | None = Field(None, ge=1, le=MAX_BEAM)
    """Beam search for the `n` likeliest completions, with this many beams. Not with `seed`, `logprobs`,
    `no_repeat`, filters, or a `temperature` other than 0 or 1."""
    length_penalty: float = Field(1.0, ge=0, le=10, allow_inf_nan=False)
    """With `beam`: completions are compared by log-probability / characters ** this. 0 favors short ones."""
    no_repeat: int | None = Field(None, ge=1, le=1000)
    """Never generate an n-gram of this many characters that already occurs in the completion or in the last
    1,000 characters of the prompt."""
    precision: Precision = "auto"
    """`float32`: the network as it was trained. `int8`: faster; its loss differs by the `int8` figure of the
    model's report. `auto`: int8 if the model has it; but float32 for a `seed` if int8 results depend on other
    requests in the batch, as in architectures other than LSTMs."""
    expert: ExpertField = "mixture"
    timeout_ms: int | None = Field(None, ge=1, le=600_000)
    """After this long, return what has been generated, with the `finish_reason` `timeout`. Milliseconds from
    the request's arrival."""
    client_id: str | None = Field(None, max_length=256)
    """Tells people or devices apart: its hash decides between two versions that share the clients of an
    alias. It is not stored."""
    stream: bool = Field(False, description="Respond with server-sent events, as characters are generated.")

    @model_validator(mode="after")
    def _check_work(self) -> Self:
        if max(self.n, self.best_of or 0, self.beam or 0) * self.max_characters > 100_000:
            raise ValueError("n (or best_of, or beam) times max_characters may be at most 100,000")
        return self


class AlternativeBody(BaseModel):
    """A character and its log-probability (natural)."""

    character: str
    logprob: float


class LogprobBody(AlternativeBody):
    """A generated character, and the likeliest alternatives to it."""

    top: list[AlternativeBody]


class CompletionChoice(Shape):
    """One completion of the prompt."""

    index: int
    text: str
    finish_reason: FinishReason
    """Why it ended: `length` means `max_characters`; `stop`, `word`, `line` and `confidence` refer to the
    options; `timeout` and `cancelled` mean that it is incomplete."""
    bits: float = Field(description="Total surprisal of the generated characters, -log2 p.")
    logprobs: list[LogprobBody] | None = Field(None, description="Only if requested.")


class CompletionBody(Shape):
    """All completions of a prompt."""

    model_config = with_examples(EXAMPLE)

    object: Literal["completion"] = "completion"
    model: str = Field(description="The `name@version` that was used.")
    early: Early
    completions: list[CompletionChoice]
    usage: Usage
    unknown_characters: list[str]
    """The distinct characters of the prompt that are not in the vocabulary."""


class PieceBody(BaseModel):
    """Streamed as event `piece`: the next text of one completion."""

    index: int
    text: str
    logprobs: list[LogprobBody] | None = None


class FinishedBody(BaseModel):
    """Streamed as event `finished`: one completion has ended."""

    index: int
    finish_reason: FinishReason
    bits: float
    characters: int


class CompletionEnd(BaseModel):
    """Streamed last, as event `done`."""

    model: str
    early: Early
    usage: Usage
    unknown_characters: list[str]


class NextCreate(RequestBody):
    """Request the distribution of the next character."""

    model_config = with_examples({"prompt": "phil", "top": 3})

    prompt: Prompt
    top: int = Field(10, ge=1, le=1000, description="How many of the likeliest characters to return.")
    temperature: float = Field(1.0, gt=0, le=10, allow_inf_nan=False)
    """Divides the logits before the softmax."""
    expert: ExpertField = "mixture"


class DistributionBody(BaseModel):
    """The distribution of the next character; the likeliest candidates first."""

    model_config = with_examples({
        "object": "distribution", "model": "nietzsche@1", "early": False, "entropy_bits": 0.4,
        "candidates": [{"character": "o", "probability": 0.93}], "unknown_characters": [],
    })  # fmt: skip

    object: Literal["distribution"] = "distribution"
    model: str
    early: Early
    entropy_bits: float
    candidates: list[CandidateBody]
    unknown_characters: list[str]
