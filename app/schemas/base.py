"""What every request body has in common."""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request's body: unknown fields are errors, and "40" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
