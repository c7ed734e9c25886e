"""The one shape of every error answer; OpenAI's SDKs can read it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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
    """What went wrong."""

    type: ErrorType = Field(description="The family of the error; follows from the status.")
    code: str = Field(description="Stable and machine-readable.")
    message: str = Field(description="A sentence that says what to do about it.")
    param: str | None = Field(
        None,
        description="The offending field, dotted for nested ones, where there is one.",
    )


class ErrorAnswer(BaseModel):
    """The body of every answer whose status is 4xx or 5xx."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "type": "not_found_error",
                        "code": "model_not_found",
                        "message": "there is no model 'nietsche'",
                        "param": "model",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
