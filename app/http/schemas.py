"""The base class of request bodies, a type that several of them share, and examples for OpenAPI."""

from typing import Annotated, Any, Unpack

from pydantic import BaseModel, ConfigDict, Field

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""What clients of OpenAI's API store with a batch or a job, with OpenAI's bounds."""


class RequestBody(BaseModel):
    """A request's body: unknown fields are errors, and strings are not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def with_examples(*examples: dict[str, Any], **options: Unpack[ConfigDict]) -> ConfigDict:
    """Return the configuration of a model that has examples in OpenAPI."""
    return ConfigDict(json_schema_extra={"examples": [*examples]}, **options)
