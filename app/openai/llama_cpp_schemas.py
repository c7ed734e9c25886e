"""llama.cpp's /infill, as its editor plug-ins use it, and its and vLLM's conversion between texts and ids.

Unknown fields are ignored, as in llama.cpp. A token is a character of the model's vocabulary; 0 is unknown.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.app.completions.schemas import MAX_PROMPT_CHARACTERS, ModelInBody, StopString, Text
from nextchar.app.http.schemas import Shape, with_examples

MAX_PREDICT = 2000

EXAMPLE_CREATE: dict[str, Any] = {
    "input_prefix": "import math\n\n", "input_suffix": "\n", "prompt": "print(math.s", "n_predict": 64,
    "t_max_predict_ms": 500,
}  # fmt: skip

EXAMPLE: dict[str, Any] = {
    "index": 0, "content": "qrt(2))", "stop": True, "stop_type": "word", "model": "code@3",
    "tokens_predicted": 7, "tokens_evaluated": 25, "tokens_cached": 24, "truncated": False,
    "timings": {"prompt_n": 1, "predicted_n": 7},
}  # fmt: skip


class ExtraText(BaseModel):
    """Text that the editor has collected."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: Text


class InfillCreate(Shape):
    """The text around the cursor, and limits of the completion. A token is a character."""

    model_config = with_examples(EXAMPLE_CREATE, extra="ignore", frozen=True)

    input_prefix: Text = Field("", description="The lines before the cursor's.")
    prompt: Text = Field("", description="The cursor's line up to the cursor.")
    input_suffix: Text = ""
    """The text after the cursor, by which several candidates are compared."""
    input_extra: list[ExtraText] = Field([], max_length=1000)
    """Texts of other files, read before the prefix; the last ones count."""
    n_predict: int = Field(
        -1,
        ge=-1,
        description="Maximum characters; 0 only reads the prompt, so that the next call is fast. -1 and"
        f" values above {MAX_PREDICT} mean {MAX_PREDICT}.",
    )
    t_max_prompt_ms: float = Field(0, ge=0, description="Time limit for reading the prompt; 0: none.")
    t_max_predict_ms: float = Field(0, ge=0)
    """Time limit for generating, from the first character on; 0: none."""
    stop: Annotated[list[StopString], Field(max_length=16)] = Field([])
    """End before the first of these. A newline always ends it."""
    temperature: float | None = Field(None, ge=0, le=10)
    """Default: 0, the likeliest characters, which suits ghost text."""
    top_k: int | None = Field(None, description="0 or less: no limit.")
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, description="-1: a new seed each time.")
    stream: bool = False
    model: ModelInBody = ""
    response_fields: list[str] | None = None
    """Return only these fields, such as content or timings/prompt_n."""


class Timings(BaseModel):
    """Durations and rates; a token is a character."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class Infill(BaseModel):
    """The response, and the last event of a stream."""

    model_config = with_examples(EXAMPLE)

    index: Literal[0] = 0
    content: str
    stop: Literal[True] = True
    stop_type: Literal["limit", "word"] = Field(description="`word`: a newline or one of `stop`.")
    model: str = Field(description="The `name@version` that was used.")
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    truncated: bool = Field(description="Whether the beginning of a long prefix was omitted.")
    timings: Timings


InfillFields = dict[str, str | bool | float | Timings]
"""The response with `response_fields`: those of `Infill`, and of its timings as `timings/prompt_n`."""


class InfillPiece(BaseModel):
    """Streamed: the next text."""

    index: Literal[0] = 0
    content: str
    stop: Literal[False] = False


class GenerationSettings(BaseModel):
    """Limits of a request."""

    n_ctx: int = Field(description="Maximum prompt length, in characters.")
    n_predict: int


class Props(BaseModel):
    """Properties of the server, in llama.cpp's form."""

    model_config = with_examples({
        "default_generation_settings": {"n_ctx": 1000000, "n_predict": 2000}, "total_slots": 64,
        "model_alias": "code@3", "model_path": "code@3", "chat_template": "", "build_info": "nextchar",
    })  # fmt: skip

    default_generation_settings: GenerationSettings
    total_slots: int = Field(description="Completions that are computed in parallel.")
    model_alias: str
    model_path: str
    chat_template: Literal[""] = ""
    build_info: str


EXAMPLE_INFO: dict[str, Any] = {
    "tokenizer_class": "characters", "model": "nietzsche@1", "vocab_size": 86, "model_max_length": 1_000_000,
    "bos_token": None, "eos_token": "\n", "pad_token": None, "unk_token": "\ufffd",
}  # fmt: skip


class TokenizeCreate(BaseModel):
    """The text is `prompt` (vLLM) or `content` (llama.cpp). Unknown fields are ignored."""

    model_config = with_examples({"model": "nietzsche", "prompt": "soul"}, extra="ignore", frozen=True)

    model: ModelInBody = ""
    prompt: Text | None = None
    content: Text | None = None

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.prompt is None) == (self.content is None):
            raise ValueError("give exactly one of prompt and content")
        return self


class Tokens(BaseModel):
    """One id per character of the text in Unicode NFC, after the model's masks."""

    model_config = with_examples({"count": 4, "max_model_len": 1000000, "tokens": [70, 66, 72, 63]})

    count: int
    max_model_len: int = Field(description="Maximum prompt length, in characters.")
    tokens: list[int]


class DetokenizeCreate(BaseModel):
    """Ids, as /tokenize returns them."""

    model_config = with_examples(
        {"model": "nietzsche", "tokens": [70, 66, 72, 63]}, extra="ignore", frozen=True
    )

    model: ModelInBody = ""
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_PROMPT_CHARACTERS)


class Detokenized(BaseModel):
    """The text, as `prompt` (vLLM) and as `content` (llama.cpp)."""

    model_config = with_examples({"prompt": "soul", "content": "soul"})

    prompt: str
    content: str


class TokenizerInfo(Shape):
    """A description of a model's vocabulary."""

    model_config = with_examples(EXAMPLE_INFO)

    tokenizer_class: Literal["characters", "bytes"]
    """The unit of a token: a code point after Unicode NFC, or a byte of UTF-8."""
    model: str
    vocab_size: int = Field(description="The number of ids, including 0.")
    model_max_length: int = Field(description="Maximum prompt length, in characters.")
    bos_token: None = None
    eos_token: Literal["\n"] = "\n"  # noqa: S105  not a password
    """The character assumed before a text: a text begins like a line."""
    pad_token: None = None
    unk_token: Literal["\ufffd"] = "\ufffd"  # noqa: S105  not a password
