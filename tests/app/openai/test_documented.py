"""docs/reference/openai-api.md says of every field that OpenAI's SDK can send what becomes of it."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import (
    batch_create_params,
    batch_list_params,
    completion_create_params,
    file_create_params,
    file_list_params,
)
from openai.types.chat import chat_completion_stream_options_param
from openai.types.fine_tuning import job_create_params, job_list_events_params, job_list_params
from openai.types.fine_tuning.jobs import checkpoint_list_params

from nextchar.app.openai.job_schemas import BatchCreate, FineTuningJobCreate
from nextchar.app.openai.schemas import OpenAICompletionCreate

DOCUMENTED = (Path(__file__).parents[3] / "docs" / "reference" / "openai-api.md").read_text()

SENT: dict[str, Any] = {
    "POST /v1/completions": completion_create_params.CompletionCreateParamsStreaming,
    "stream_options": chat_completion_stream_options_param.ChatCompletionStreamOptionsParam,
    "POST /v1/files": file_create_params.FileCreateParams,
    "GET /v1/files": file_list_params.FileListParams,
    "POST /v1/batches": batch_create_params.BatchCreateParams,
    "GET /v1/batches": batch_list_params.BatchListParams,
    "POST /v1/fine_tuning/jobs": job_create_params.JobCreateParams,
    "hyperparameters": job_create_params.Hyperparameters,
    "GET /v1/fine_tuning/jobs": job_list_params.JobListParams,
    "events": job_list_events_params.JobListEventsParams,
    "checkpoints": checkpoint_list_params.CheckpointListParams,
}


def fields(shape: Any) -> set[str]:
    return {name for kind in shape.__mro__ for name in getattr(kind, "__annotations__", {})}


@pytest.mark.parametrize("call", SENT)
def test_every_field_of_the_sdk_is_in_the_table(call: str) -> None:
    told = " ".join(re.findall(r"^\|.*?\|", DOCUMENTED, flags=re.MULTILINE))
    missing = {name for name in fields(SENT[call]) if not re.search(rf"[`.]{name}[`.]", told)}
    assert not missing


def test_every_field_of_the_sdk_is_known_to_the_schemas() -> None:
    assert fields(SENT["POST /v1/completions"]) <= set(OpenAICompletionCreate.model_fields)
    assert fields(SENT["POST /v1/batches"]) <= set(BatchCreate.model_fields)
    assert fields(SENT["POST /v1/fine_tuning/jobs"]) <= set(FineTuningJobCreate.model_fields)
