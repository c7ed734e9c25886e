"""Suggestions: requests and responses. Lengths and places are in Unicode code points."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.models.runtime.line_index import MAX_TYPOS
from nextchar.models.runtime.suggestions import (
    MAX_EXCLUDED,
    MAX_LIMIT,
    MAX_PATTERNS,
    MAX_PREFIX_CHARACTERS,
    Constrain,
)
from nextchar.models.text.masks import MAX_PATTERN_CHARACTERS

EXAMPLE_CREATE: dict[str, Any] = {"prefix": "berln", "limit": 5}

EXAMPLE: dict[str, Any] = {
    "object": "suggestions",
    "id": "sug_0197c2a1b3c4d5e6f7a8b",
    "model": "cities@3",
    "prefix": "berln",
    "suggestions": [
        {
            "id": "sug_0197c2a1b3c4d5e6f7a8b.0",
            "text": "Berlin",
            "probability": 0.94,
            "count": 3426354,
            "exists": True,
            "replaced": {"start": 4, "end": 5},
        }
    ],
}

Field_ = Annotated[str, Field(max_length=MAX_PREFIX_CHARACTERS)]


class SuggestCreate(RequestBody):
    """Suggest different completions of a field, best first."""

    model_config = with_examples(EXAMPLE_CREATE)

    prefix: Field_ = Field(description="What has been typed into the field; it may be empty.")
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="The most suggestions.")
    constrain: Constrain | None = Field(
        None,
        description="`lines`: only lines of the model's corpus, and none if none fits. `prefer`: those first,"
        " then texts that the model generates. `none`: what the model generates, to the end of the line, or"
        " for other models than those of records of the word. Default: `lines` for models of records, else"
        " `none`.",
    )
    typos: int | None = Field(
        None,
        ge=0,
        le=MAX_TYPOS,
        description="Typing errors that lines may be found despite of: a character of the prefix that is"
        " wrong, left out, one too many, or exchanged with its neighbor. Default: 0 below 4 characters, 1"
        " below 8, else 2. Lines that need fewer come first. In texts that the model generates, one is"
        " corrected; with 0, none.",
    )
    context: Field_ | None = Field(
        None,
        description="What the model reads before the prefix, such as an earlier field or the previous query,"
        " where the lines of its corpus are `context`, a tab and the field.",
    )
    exclude: list[Field_] = Field(
        [],
        max_length=MAX_EXCLUDED,
        description="Texts that are not suggested, whatever their case and accents.",
    )
    exclude_patterns: list[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]] = Field(
        [],
        max_length=MAX_PATTERNS,
        description="RE2 expressions; texts in which one matches are not suggested.",
    )
    client_id: Annotated[str, Field(max_length=256)] | None = Field(
        None,
        description="An id of the person or the installation that suggestions are for. It decides which"
        " version responds where two versions share the traffic; it is not stored.",
    )


class ReplacedBody(BaseModel):
    """A range of the prefix, from `start` to before `end`."""

    start: int
    end: int


class SuggestionBody(BaseModel):
    """A suggestion."""

    id: str = Field(description="Its name in events of acceptance.")
    text: str = Field(description="The whole field as it is once the suggestion is accepted.")
    probability: float = Field(description="Estimated, among all that may follow the prefix.")
    count: int = Field(description="How often the text is a line of the corpus.")
    exists: bool = Field(description="Whether the text is a line of the corpus.")
    replaced: ReplacedBody | None = Field(
        None, description="The range of the prefix that was taken for a typing error; null if there is none."
    )


class SuggestionsBody(BaseModel):
    """Suggestions, best first; an empty list if nothing fits."""

    model_config = with_examples(EXAMPLE)

    object: Literal["suggestions"] = "suggestions"
    id: str
    model: str = Field(description="The `name@version` that was used.")
    prefix: str
    suggestions: list[SuggestionBody]
