"""The base class of request bodies."""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request's body: unknown fields are errors, and strings are not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
