"""Batches in OpenAI's shapes.

docs/reference/openai-api.md lists for every field whether it is supported, approximated or refused.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import Metadata, RequestBody, with_examples
from nextchar.app.openai.batches import BatchStatus

EXAMPLE_CREATE: dict[str, Any] = {
    "input_file_id": "corpus_98b1f0a4c2d5e6f708192a3b",
    "endpoint": "/v1/completions",
    "completion_window": "24h",
    "metadata": {"evaluation": "prompts of May"},
}

EXAMPLE: dict[str, Any] = {
    "id": "batch_0197c2a1b3c4d5e6f7a8b",
    "object": "batch",
    "endpoint": "/v1/completions",
    "errors": None,
    "input_file_id": "corpus_98b1f0a4c2d5e6f708192a3b",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "corpus_d5e6f708192a3b98b1f0a4c2",
    "error_file_id": None,
    "created_at": 1795563600,
    "in_progress_at": 1795563601,
    "expires_at": 1795650000,
    "finalizing_at": 1795563688,
    "completed_at": 1795563689,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 1000, "completed": 1000, "failed": 0},
    "metadata": {"evaluation": "prompts of May"},
}

Seconds = int | None


class BatchCreate(RequestBody):
    """Run the requests in a file in the background."""

    model_config = with_examples(EXAMPLE_CREATE)

    input_file_id: str = Field(max_length=128, description="A file uploaded with the purpose `batch`.")
    endpoint: Literal["/v1/completions"] = Field(description="What all requests in the file call.")
    completion_window: str = Field(
        pattern=r"^[1-9]\d{0,2}[mhd]$",
        description="Requests that have not run by then are not run; such as `24h`, `30m` or `7d`.",
    )
    metadata: Metadata | None = Field(None, description="Stored and returned unchanged.")
    output_expires_after: None = Field(None, description="Not available: files are kept until deleted.")


class BatchErrorBody(BaseModel):
    """What is wrong with the input file."""

    code: str
    message: str
    line: int | None = Field(description="The number of the line in the file, from 1.")
    param: str | None


class BatchErrors(BaseModel):
    """Why a batch failed, at most 100 errors."""

    object: Literal["list"] = "list"
    data: list[BatchErrorBody]


class RequestCounts(BaseModel):
    """The requests in the file. Those of a batch in progress are updated chunk by chunk."""

    total: int = Field(description="0 until the file is validated.")
    completed: int
    failed: int


class BatchBody(BaseModel):
    """A batch."""

    model_config = with_examples(EXAMPLE)

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = Field(description="The responses with status 200, when the batch has ended.")
    error_file_id: str | None = Field(description="The other requests, when the batch has ended.")
    created_at: int = Field(description="Unix seconds, UTC.")
    in_progress_at: Seconds
    expires_at: int
    finalizing_at: Seconds
    completed_at: Seconds
    failed_at: Seconds
    expired_at: Seconds
    cancelling_at: Seconds
    cancelled_at: Seconds
    request_counts: RequestCounts
    metadata: dict[str, str] | None
