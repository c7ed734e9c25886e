"""Lists: a page of things, and whether more follow."""

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T", bound=BaseModel)

After = Annotated[
    str | None,
    Query(description="The `id` of the last thing of the page before; the list goes on behind it."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="The most things in a page.")]

DEFAULT_LIMIT = 20


class Page(BaseModel, Generic[T]):
    """Some things in order, newest first but for events."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = Field(description="Whether a request with `after` set to the last `id` finds more.")


class Deleted(BaseModel):
    """Says what has been deleted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "nietzsche@1", "object": "model", "deleted": True}]}
    )

    id: str
    object: Literal["corpus", "model"]
    deleted: Literal[True] = True
