"""Pages of lists."""

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Header, Query
from pydantic import BaseModel, Field

from nextchar.app.http.schemas import with_examples

T = TypeVar("T", bound=BaseModel)

After = Annotated[
    str | None,
    Query(description="The `id` of the last item of the previous page; the next page begins after it."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="The maximum number of items in a page.")]

DEFAULT_LIMIT = 20

MAX_EVENT_NUMBER = 2**63 - 1
"""The greatest number of an event that a request can name; Redis knows none of 2**64."""

LastEventId = Annotated[int | None, Header(ge=0, le=MAX_EVENT_NUMBER, description="As `after`, for streams.")]


class Page(BaseModel, Generic[T]):
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
