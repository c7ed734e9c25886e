"""Texts as ids and back: a token is a character of the model's vocabulary, 0 the unknown one."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.completions import MAX_PROMPT_CHARACTERS

Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]

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
    """vLLM calls the text `prompt`, llama.cpp `content`. Fields that mean nothing here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        json_schema_extra={"examples": [{"model": "nietzsche", "prompt": "soul"}]},
    )

    model: str = Field(
        "", max_length=128, description="Empty: that of the query or the path, or the default."
    )
    prompt: Text | None = None
    content: Text | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.content is None):
            raise ValueError("give exactly one of prompt and content")
        return self


class Tokens(BaseModel):
    """One id a character, of the text in Unicode NFC."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"count": 4, "max_model_len": 1000000, "tokens": [70, 66, 72, 63]}]}
    )

    count: int
    max_model_len: int = Field(description="The longest prompt, in characters.")
    tokens: list[int]


class DetokenizeCreate(BaseModel):
    """Ids, as /tokenize gives them."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        json_schema_extra={"examples": [{"model": "nietzsche", "tokens": [70, 66, 72, 63]}]},
    )

    model: str = Field(
        "", max_length=128, description="Empty: that of the query or the path, or the default."
    )
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_PROMPT_CHARACTERS)


class Detokenized(BaseModel):
    """The text, under vLLM's name and under llama.cpp's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "soul", "content": "soul"}]})

    prompt: str
    content: str


class TokenizerInfo(BaseModel):
    """What there is to know of a model's characters before using them."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_INFO]})

    tokenizer_class: Literal["characters", "bytes"] = Field(
        description="What a token is: a code point after Unicode NFC, or a byte of UTF-8."
    )
    model: str
    vocab_size: int = Field(description="Ids, with 0.")
    model_max_length: int = Field(description="The longest prompt, in characters.")
    bos_token: None = None
    eos_token: Literal["\n"] = Field(
        "\n", description="What precedes a text that is scored by itself: a text begins as a line does."
    )
    pad_token: None = None
    unk_token: Literal["\ufffd"] = "\ufffd"  # noqa: S105  a token is no password here
