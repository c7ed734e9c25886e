"""Conversion between texts and ids: a token is a character of the model's vocabulary; 0 is unknown."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.completions.schemas import MAX_PROMPT_CHARACTERS, ModelInBody, Text
from nextchar.app.http.schemas import with_examples

EXAMPLE_INFO: dict[str, Any] = {
    "tokenizer_class": "characters",
    "model": "nietzsche@1",
    "vocab_size": 86,
    "model_max_length": 1_000_000,
    "bos_token": None,
    "eos_token": "\n",
    "pad_token": None,
    "unk_token": "\ufffd",
}


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


class TokenizerInfo(BaseModel):
    """A description of a model's vocabulary."""

    model_config = with_examples(EXAMPLE_INFO)

    tokenizer_class: Literal["characters", "bytes"] = Field(
        description="The unit of a token: a code point after Unicode NFC, or a byte of UTF-8."
    )
    model: str
    vocab_size: int = Field(description="The number of ids, including 0.")
    model_max_length: int = Field(description="Maximum prompt length, in characters.")
    bos_token: None = None
    eos_token: Literal["\n"] = Field(
        "\n", description="The character assumed before a text: a text begins like a line."
    )
    pad_token: None = None
    unk_token: Literal["\ufffd"] = "\ufffd"  # noqa: S105  not a password
