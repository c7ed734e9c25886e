"""Scores: how surprised a model is by each character. Lengths are in characters after Unicode NFC."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.base import RequestBody

MAX_SCORED_CHARACTERS = 1_000_000
MAX_LINES = 10_000

EXAMPLE: dict[str, Any] = {
    "object": "score",
    "model": "nietzsche@1",
    "characters": 4,
    "total_bits": 9.1,
    "bits_per_character": 2.275,
    "bits": [4.6, 2.2, 1.9, 0.4],
    "lines": None,
    "unknown_characters": [],
}


class ScoreCreate(RequestBody):
    """Score a text as a whole, or lines each by itself; both start as if after a newline."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "the soul"}, {"lines": ["GET /", "GET /'--"]}]}
    )

    text: str | None = Field(None, min_length=1, max_length=MAX_SCORED_CHARACTERS)
    lines: Annotated[list[str], Field(min_length=1, max_length=MAX_LINES)] | None = Field(
        None,
        description="Lines without their newlines; together at most 1,000,000 characters.",
    )
    detail: Literal["character", "line"] = Field(
        "character",
        description="`line` leaves the bits of single characters out of the answer.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.lines is None):
            raise ValueError("give exactly one of text and lines")
        if sum(map(len, self.lines or ())) > MAX_SCORED_CHARACTERS:
            raise ValueError(f"the lines have more than {MAX_SCORED_CHARACTERS:,} characters together")
        return self


class LineScore(BaseModel):
    """The score of one line. An empty line has no characters and 0 bits."""

    characters: int
    total_bits: float
    bits_per_character: float
    bits: list[float] | None = Field(None, description="Surprisal of each character, -log2 p.")


class ScoreBody(BaseModel):
    """Surprisal in bits, of the text or of each line, and over everything."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    object: Literal["score"] = "score"
    model: str = Field(description="The `name@version` that answered.")
    characters: int
    total_bits: float
    bits_per_character: float
    bits: list[float] | None = Field(
        None,
        description="Of each character of `text`; null when lines were given or not asked for.",
    )
    lines: list[LineScore] | None = Field(None, description="In the order given; null when text was given.")
    unknown_characters: list[str] = Field(
        description="The distinct characters that the model has never seen. Each costs log2(V - 1) + 2 bits,"
        " where V - 1 is the number of characters it knows: 2 bits more than guessing blindly."
    )
