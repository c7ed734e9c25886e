"""Files, fine-tuning jobs and batches in OpenAI's shapes.

A token is a character; losses are in nats per character.
docs/reference/openai-api.md lists for every field whether it is supported, approximated or refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import Metadata, RequestBody, Shape, with_examples
from nextchar.app.openai.batches import BatchError, BatchStatus
from nextchar.store.jobs import JobStatus

EXAMPLE_FILE: dict[str, Any] = {
    "id": "corpus_98b1f0a4c2d5e6f708192a3b", "object": "file", "bytes": 600901, "created_at": 1795563600,
    "filename": "nietzsche.txt", "purpose": "fine-tune", "status": "processed", "expires_at": None,
    "status_details": None,
}  # fmt: skip

EXAMPLE_CREATE: dict[str, Any] = {
    "model": "small", "training_file": "corpus_98b1f0a4c2d5e6f708192a3b", "suffix": "nietzsche", "seed": 7,
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
}  # fmt: skip

_EXAMPLE_USED = {"n_epochs": 4, "batch_size": 32, "learning_rate_multiplier": "auto"}

EXAMPLE_JOB: dict[str, Any] = {
    "id": "job_0197c2a1b3c4d5e6f7a8b", "object": "fine_tuning.job", "created_at": 1795563600,
    "finished_at": None, "estimated_finish": 1795563721, "status": "running", "model": "small",
    "fine_tuned_model": None, "training_file": "corpus_98b1f0a4c2d5e6f708192a3b", "validation_file": None,
    "result_files": [], "hyperparameters": _EXAMPLE_USED,
    "method": {"type": "supervised", "supervised": {"hyperparameters": _EXAMPLE_USED}}, "seed": 7,
    "trained_tokens": None, "organization_id": "nextchar", "integrations": [], "metadata": None,
    "error": None,
}  # fmt: skip

EXAMPLE_EVENT: dict[str, Any] = {
    "id": "ftevent-job_0197c2a1b3c4d5e6f7a8b-3", "object": "fine_tuning.job.event", "created_at": 1795563611,
    "level": "info", "type": "metrics", "message": "step 100: train loss 2.0933, validation loss 2.1557",
    "data": {"step": 100, "train_loss": 2.0933, "valid_loss": 2.1557},
}  # fmt: skip

EXAMPLE_CHECKPOINT: dict[str, Any] = {
    "id": "ftckpt-job_0197c2a1b3c4d5e6f7a8b-3", "object": "fine_tuning.job.checkpoint",
    "created_at": 1795563611, "fine_tuning_job_id": "job_0197c2a1b3c4d5e6f7a8b",
    "fine_tuned_model_checkpoint": "nietzsche@1", "step_number": 100,
    "metrics": {"step": 100, "train_loss": 2.0933, "valid_loss": 2.1557, "full_valid_loss": 2.1557},
}  # fmt: skip

Auto = Literal["auto"]


class FileBody(Shape):
    """An uploaded text: a corpus, under the same id."""

    model_config = with_examples(EXAMPLE_FILE)

    id: str
    object: Literal["file"] = "file"
    bytes: int
    """Size of the text; for JSON Lines, of the text that they were converted to."""
    created_at: int = Field(description="Unix seconds, UTC.")
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: None = None
    status_details: None = None


class Hyperparameters(RequestBody):
    """Training options; `auto` uses the preset's."""

    n_epochs: Auto | Annotated[float, Field(gt=0, le=10_000)] = "auto"
    """Passes over the training text. `auto`: as many as fit into one minute."""
    batch_size: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Parallel streams that the text is divided into: `training.rows` of a job."""
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] = "auto"
    """Multiplies the peak learning rate of the preset."""


class SupervisedBody(RequestBody):
    """Options of supervised training."""

    hyperparameters: Hyperparameters | None = None


class MethodBody(RequestBody):
    """The training method; only `supervised` is available."""

    type: Literal["supervised"]
    supervised: SupervisedBody | None = None


class FineTuningJobCreate(RequestBody):
    """Train a model on an uploaded file."""

    model_config = with_examples(EXAMPLE_CREATE)

    model: str = Field(min_length=1, max_length=128)
    """`tiny`, `small`, `medium` or `large` for a new network, or a model to start from."""
    training_file: str = Field(max_length=128, description="The id of an uploaded file, or a corpus's name.")
    validation_file: str | None = Field(None, max_length=128)
    """Held out instead of the last tenth of the training file."""
    suffix: str | None = Field(None, min_length=1, max_length=64)
    """The model's name; default: `ft-` and the value of `model`."""
    seed: int | None = Field(None, description="Default: 1.")
    method: MethodBody | None = None
    hyperparameters: Hyperparameters | None = None
    """Deprecated by OpenAI in favor of `method`."""
    metadata: Metadata | None = Field(None, description="Stored and returned unchanged.")
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    """Not available: must be empty or omitted."""


class FineTuningError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: None = None


class FineTuningJob(Shape):
    """A training job, under the same id."""

    model_config = with_examples(EXAMPLE_JOB)

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: JobStatus
    """As OpenAI's, without `validating_files`: files are validated at once."""
    model: str = Field(description="The `model` of the request.")
    fine_tuned_model: str | None = Field(description="`name@version`, once it exists.")
    training_file: str
    validation_file: str | None
    result_files: list[str] = Field(description="Always empty: the metrics are in the events.")
    hyperparameters: Hyperparameters
    method: MethodBody
    seed: int
    trained_tokens: int | None = Field(description="Characters that training has read, after its end.")
    organization_id: Literal["nextchar"] = "nextchar"
    integrations: list[Any]
    metadata: dict[str, str] | None
    error: FineTuningError | None


class FineTuningEvent(BaseModel):
    """An event of a job."""

    model_config = with_examples(EXAMPLE_EVENT)

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info"] = "info"
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


class CheckpointMetrics(BaseModel):
    """Losses in nats per character."""

    step: int
    train_loss: float | None
    valid_loss: float | None
    full_valid_loss: float | None


class FineTuningCheckpoint(BaseModel):
    """An evaluation of a job. Only the best weights are kept, as the model."""

    model_config = with_examples(EXAMPLE_CHECKPOINT)

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str = Field(description="The job's model, or its future name.")
    step_number: int
    metrics: CheckpointMetrics


EXAMPLE_BATCH_CREATE: dict[str, Any] = {
    "input_file_id": "corpus_98b1f0a4c2d5e6f708192a3b", "endpoint": "/v1/completions",
    "completion_window": "24h", "metadata": {"evaluation": "prompts of May"},
}  # fmt: skip

EXAMPLE_BATCH: dict[str, Any] = {
    "id": "batch_0197c2a1b3c4d5e6f7a8b", "object": "batch", "endpoint": "/v1/completions", "errors": None,
    "input_file_id": "corpus_98b1f0a4c2d5e6f708192a3b", "completion_window": "24h", "status": "completed",
    "output_file_id": "corpus_d5e6f708192a3b98b1f0a4c2", "error_file_id": None, "created_at": 1795563600,
    "in_progress_at": 1795563601, "expires_at": 1795650000, "finalizing_at": 1795563688,
    "completed_at": 1795563689, "failed_at": None, "expired_at": None, "cancelling_at": None,
    "cancelled_at": None, "request_counts": {"total": 1000, "completed": 1000, "failed": 0},
    "metadata": {"evaluation": "prompts of May"},
}  # fmt: skip

Seconds = int | None


class BatchCreate(RequestBody):
    """Run the requests in a file in the background."""

    model_config = with_examples(EXAMPLE_BATCH_CREATE)

    input_file_id: str = Field(max_length=128, description="A file uploaded with the purpose `batch`.")
    endpoint: Literal["/v1/completions"] = Field(description="What all requests in the file call.")
    completion_window: str = Field(pattern=r"^[1-9]\d{0,2}[mhd]$")
    """Requests that have not run by then are not run; such as `24h`, `30m` or `7d`."""
    metadata: Metadata | None = Field(None, description="Stored and returned unchanged.")
    output_expires_after: None = Field(None, description="Not available: files are kept until deleted.")


class BatchErrors(BaseModel):
    """Why a batch failed, at most 100 errors."""

    object: Literal["list"] = "list"
    data: tuple[BatchError, ...]


class RequestCounts(BaseModel):
    """The requests in the file. Those of a batch in progress are updated chunk by chunk."""

    total: int = Field(description="0 until the file is validated.")
    completed: int
    failed: int


class BatchBody(BaseModel):
    """A batch."""

    model_config = with_examples(EXAMPLE_BATCH)

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
