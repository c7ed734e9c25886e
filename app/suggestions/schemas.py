"""Suggestions: requests and responses. Lengths and places are in Unicode code points."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.app.models.schemas import Early
from nextchar.app.suggestions.counts import MAX_LINES, SourceCounts
from nextchar.models.runtime.line_index import MAX_TYPOS
from nextchar.models.runtime.suggestions import (
    MAX_EXCLUDED,
    MAX_LIMIT,
    MAX_PATTERNS,
    MAX_PREFIX_CHARACTERS,
    Constrain,
    Replaced,
)
from nextchar.models.text.masks import MAX_PATTERN_CHARACTERS
from nextchar.models.validation_errors import NAME_PATTERN

EXAMPLE_CREATE: dict[str, Any] = {"prefix": "berln", "limit": 5}

EXAMPLE: dict[str, Any] = {
    "object": "suggestions", "id": "sug_0197c2a1b3c4d5e6f7a8b", "model": "cities@3", "early": False,
    "prefix": "berln",
    "suggestions": [
        {
            "id": "sug_0197c2a1b3c4d5e6f7a8b.0", "text": "Berlin", "probability": 0.94, "count": 3426354,
            "exists": True, "replaced": {"start": 4, "end": 5},
        },
    ],
}  # fmt: skip

Field_ = Annotated[str, Field(max_length=MAX_PREFIX_CHARACTERS)]


class SuggestCreate(RequestBody):
    """Suggest different completions of a field, best first."""

    model_config = with_examples(EXAMPLE_CREATE)

    prefix: Field_ = Field(description="What has been typed into the field; it may be empty.")
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="The most suggestions.")
    constrain: Constrain | None = None
    """`lines`: only lines of the model's corpus, and none if none fits. `prefer`: those, and texts that the
    model generates, the likeliest first. `none`: what the model generates, to the end of the line, or for
    other models than those of records of the word. Default: `lines` for models of records, else `none`."""
    typos: int | None = Field(None, ge=0, le=MAX_TYPOS)
    """Typing errors despite which lines are found: a character of the prefix that is wrong, left out, one too
    many, or exchanged with its neighbor. Default: 0 below 4 characters, 1 below 8, else 2. Lines that need
    fewer come first. In texts that the model generates, one is corrected; with 0, none."""
    context: Field_ | None = None
    """What the model reads before the prefix, such as an earlier field or the previous query, where the lines
    of its corpus are `context`, a tab and the field."""
    exclude: list[Field_] = Field([], max_length=MAX_EXCLUDED)
    """Texts that are not suggested, whatever their case and accents."""
    exclude_patterns: list[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]] = Field(
        [], max_length=MAX_PATTERNS
    )
    """RE2 expressions; texts in which one matches are not suggested."""
    client_id: Annotated[str, Field(max_length=256)] | None = None
    """An id of the person or the installation that suggestions are for. It decides which version responds
    where two versions share the traffic; it is not stored."""


class SuggestionBody(Shape):
    """A suggestion."""

    id: str = Field(description="Its name in events of acceptance.")
    text: str = Field(description="The whole field as it is once the suggestion is accepted.")
    probability: float = Field(description="Estimated, among all that may follow the prefix.")
    count: int
    """How often the text is a line of the corpus, with what is left of the counts added to it."""
    exists: bool = Field(description="Whether the text is a line of the corpus, or counts were added to it.")
    replaced: Replaced | None = None
    """The range of the prefix that was taken for a typing error; null if there is none."""


class SuggestionsBody(BaseModel):
    """Suggestions, best first; an empty list if nothing fits."""

    model_config = with_examples(EXAMPLE)

    object: Literal["suggestions"] = "suggestions"
    id: str
    model: str = Field(description="The `name@version` that was used.")
    early: Early
    prefix: str
    suggestions: list[SuggestionBody]


SourceName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class LineCountPut(RequestBody):
    """How often a line was counted."""

    text: str = Field(
        min_length=1, max_length=MAX_PREFIX_CHARACTERS, pattern=r"^[^\r\n\x00]*[^\s\x00][^\r\n\x00]*$"
    )
    """A line."""
    count: float = Field(1.0, ge=0, le=1e9, allow_inf_nan=False)
    """How often; it may be a fraction."""
    at: float | None = Field(None, ge=0, le=1e11, allow_inf_nan=False)
    """When, in Unix seconds. Default: when it is sent."""


class LineCountsPut(RequestBody):
    """Add counts to lines: they replace what the same source has added before."""

    model_config = with_examples({
        "source": "orders", "half_life_days": 14,
        "lines": [{"text": "Berlin", "count": 120}, {"text": "Neustadt", "at": 1795563600}],
    })  # fmt: skip

    source: SourceName = Field("default", description="What has counted them: each source replaces its own.")
    half_life_days: float | None = Field(30.0, ge=0.04, le=36_500)
    """Days after which half of a count is left; null: all of it stays."""
    add_lines: bool = True
    """Whether lines that the corpus lacks are suggested as well; else they are ignored."""
    lines: list[LineCountPut] = Field(min_length=1, max_length=MAX_LINES)
    """Counts of the same line add up."""


class CountSourceBody(BaseModel):
    """What a source has added."""

    model_config = with_examples({
        "object": "line_counts.source", "source": "orders", "half_life_days": 14.0, "adds_lines": True,
        "updated_at": 1795563730.0, "updated_by": "shop", "lines": 2,
    })  # fmt: skip

    object: Literal["line_counts.source"] = "line_counts.source"
    source: str
    half_life_days: float | None
    adds_lines: bool
    updated_at: float = Field(description="Unix seconds.")
    updated_by: str | None = Field(description="The name of the API key; null without keys.")
    lines: int = Field(description="How many counts it has sent.")

    @classmethod
    def of(cls, counts: SourceCounts) -> Self:
        """Return what a source has added."""
        return cls(**counts.model_dump(exclude={"model", "lines"}), lines=len(counts.lines))


class CountedLineBody(BaseModel):
    """A line with counts that were added."""

    text: str
    count: float = Field(description="What is left of them.")


class LineCountsBody(Shape):
    """The counts that were added to the lines of a model's name."""

    model_config = with_examples({
        "object": "line_counts", "model": "cities", "sources": [],
        "lines": [{"text": "Berlin", "count": 118.3}], "has_more": False,
    })  # fmt: skip

    object: Literal["line_counts"] = "line_counts"
    model: str
    sources: list[CountSourceBody]
    lines: list[CountedLineBody]
    """Those with the largest counts, of all sources together."""
    has_more: bool = Field(description="Whether there are more lines than `limit`.")


class DeletedCounts(BaseModel):
    """What was deleted."""

    model_config = with_examples({"object": "line_counts", "deleted": 2})

    object: Literal["line_counts"] = "line_counts"
    deleted: int = Field(description="How many counts.")
