"""The shape of every error response, which OpenAI's SDKs can read too."""

from typing import Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import with_examples

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


class ErrorDetail(BaseModel):
    """An error."""

    type: ErrorType = Field(description="The class of the error, determined by the status.")
    code: str = Field(description="Stable and machine-readable.")
    message: str = Field(description="What is wrong, and how to correct it.")
    param: str | None = Field(
        None, description="The invalid field, with dots for nested ones, if there is one."
    )


class ErrorBody(BaseModel):
    """The body of every response whose status is 4xx or 5xx."""

    model_config = with_examples(
        {
            "error": {
                "type": "not_found_error",
                "code": "model_not_found",
                "message": "there is no model 'nietsche'",
                "param": "model",
            }
        }
    )

    error: ErrorDetail
