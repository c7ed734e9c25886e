"""The base class of request bodies, and examples for OpenAPI."""

from typing import Any, Unpack

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request's body: unknown fields are errors, and strings are not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def with_examples(*examples: dict[str, Any], **options: Unpack[ConfigDict]) -> ConfigDict:
    """Return the configuration of a model that has examples in OpenAPI."""
    return ConfigDict(json_schema_extra={"examples": [*examples]}, **options)
