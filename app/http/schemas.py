"""Shapes that the routes share: bodies of requests, errors, pages of lists."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar, Unpack

from fastapi import Header, Query
from pydantic import BaseModel, ConfigDict, Field

from nextchar.models.errors import InvalidInput

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""What clients of OpenAI's API store with a batch or a job, with OpenAI's bounds."""


class Shape(BaseModel):
    """What is sent. Docstrings below its fields describe them, as `description` does."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestBody(Shape):
    """A request's body: unknown fields are errors, and strings are not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def with_examples(*examples: dict[str, Any], **options: Unpack[ConfigDict]) -> ConfigDict:
    """Return the configuration of a model that has examples in OpenAPI."""
    return ConfigDict(json_schema_extra={"examples": [*examples]}, **options)


ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "rate_limit_error",
    "unavailable_error",
    "server_error",
]


class ErrorDetail(Shape):
    """An error."""

    type: ErrorType = Field(description="The class of the error, determined by the status.")
    code: str = Field(description="Stable and machine-readable.")
    message: str = Field(description="What is wrong, and how to correct it.")
    param: str | None = None
    """The invalid field, with dots for nested ones, if there is one."""


class ErrorBody(BaseModel):
    """The body of every response whose status is 4xx or 5xx."""

    model_config = with_examples({
        "error": {
            "type": "not_found_error", "code": "model_not_found", "message": "there is no model 'nietsche'",
            "param": "model",
        },
    })  # fmt: skip

    error: ErrorDetail


T = TypeVar("T", bound=BaseModel)

After = Annotated[
    str | None,
    Query(description="The `id` of the last item of the previous page; the next page begins after it."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="The maximum number of items in a page.")]

DEFAULT_LIMIT = 20

MAX_EVENT_NUMBER = 2**63 - 1
"""The greatest number of an event that a request can name; Redis knows none of 2**64."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A request that is repeated with the same key creates nothing a second time.",
    ),
]

LastEventId = Annotated[int | None, Header(ge=0, le=MAX_EVENT_NUMBER, description="As `after`, for streams.")]


class Page(Shape, Generic[T]):
    """A page of items, newest first except for events."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = Field(description="Whether a request with `after` set to the last `id` returns more.")


class Deleted(BaseModel):
    """The deleted resource."""

    model_config = with_examples({"id": "nietzsche@1", "object": "model", "deleted": True})

    id: str
    object: Literal["corpus", "file", "model"]
    deleted: Literal[True] = True


Item = TypeVar("Item")


def paginate(
    items: Sequence[Item], id_of: Callable[[Item], str], *, after: str | None, limit: int
) -> tuple[list[Item], bool]:
    """Return at most `limit` items after the one whose id is `after`, and whether more follow.

    >>> paginate("abcd", str, after="a", limit=2)
    (['b', 'c'], True)

    Raises:
        InvalidInput: no item of the list has that id.
    """
    start = 0
    if after is not None:
        start = next((i + 1 for i, item in enumerate(items) if id_of(item) == after), 0)
        if not start:
            raise InvalidInput(
                f"the list has no item with the id {after!r}; start again without after",
                code="unknown_cursor",
                param="after",
            )
    return list(items[start : start + limit]), start + limit < len(items)
