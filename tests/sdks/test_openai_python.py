"""OpenAI's Python SDK, as it is, all the way against the real service."""

import json
from collections.abc import Iterator

import openai
import pytest

from launcher.stack import Stack
from tests.waiting import eventually

EXAMPLES = "".join(
    json.dumps({"prompt": f"{color} ", "completion": f"{fruit}."}) + "\n"
    for color, fruit in [("red", "cherry"), ("green", "apple"), ("yellow", "lemon")] * 16
)


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    """The client, as its documentation makes it."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none is asked for") as client:
        yield client


def test_whole_way_from_a_file_to_a_deleted_model(sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=("fruit.jsonl", EXAMPLES.encode()), purpose="fine-tune")
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        suffix="fruit-py",
        seed=3,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}},
        },
    )
    seen = []

    def is_over() -> bool:
        seen.append(sdk.fine_tuning.jobs.retrieve(job.id))
        return seen[-1].status in ("succeeded", "failed", "cancelled")

    eventually(is_over, within_s=100, what="the job ends")
    assert seen[-1].status == "succeeded", seen[-1].error
    assert {found.status for found in seen} <= {"queued", "running", "succeeded"}
    model = seen[-1].fine_tuned_model
    assert model == "fruit-py@1" and seen[-1].trained_tokens and seen[-1].finished_at

    events = list(sdk.fine_tuning.jobs.list_events(job.id))
    assert any(event.type == "metrics" for event in events) and events[0].created_at >= events[-1].created_at
    checkpoints = list(sdk.fine_tuning.jobs.checkpoints.list(job.id))
    first, last = checkpoints[-1].metrics, checkpoints[0].metrics
    assert first.valid_loss and last.valid_loss and last.valid_loss < first.valid_loss
    assert model in {found.id for found in sdk.models.list()}

    asked = {"model": model, "prompt": "green ", "max_tokens": 12, "seed": 1, "temperature": 0.5}
    whole = sdk.completions.create(**asked, echo=True, logprobs=2)  # type: ignore[call-overload]
    logprobs = whole.choices[0].logprobs
    assert len(logprobs.tokens) == len(whole.choices[0].text) == 18
    assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])
    streamed = sdk.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    pieces = [chunk.choices[0].text for chunk in streamed]
    assert "green " + "".join(pieces) == whole.choices[0].text

    assert sdk.models.delete(model).deleted and sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.completions.create(**asked)  # type: ignore[call-overload]
