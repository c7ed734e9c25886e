"""OpenAI's Python SDK, as it is, all the way against the real service."""

import json
from collections.abc import Iterator

import openai
import pytest

from nextchar.launcher.stack import Stack
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
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
    )
    seen = []

    def is_over() -> bool:
        seen.append(sdk.fine_tuning.jobs.retrieve(job.id))
        return seen[-1].status in ("succeeded", "failed", "cancelled")

    eventually(is_over, what="the job ends")
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

    requests = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": asked} for i in range(70)
    ]
    lines = "".join(json.dumps(one) + "\n" for one in requests)
    input_file = sdk.files.create(file=("batch.jsonl", lines.encode()), purpose="batch")
    batch = sdk.batches.create(
        input_file_id=input_file.id, endpoint="/v1/completions", completion_window="24h"
    )
    eventually(lambda: sdk.batches.retrieve(batch.id).status == "completed", within_s=60)
    output = sdk.batches.retrieve(batch.id).output_file_id
    assert output
    answers = [json.loads(line) for line in sdk.files.content(output).text.splitlines()]
    assert [one["custom_id"] for one in answers] == [one["custom_id"] for one in requests]
    texts = {one["response"]["body"]["choices"][0]["text"] for one in answers}
    assert texts == {whole.choices[0].text.removeprefix("green ")}  # of the same seed
    assert sdk.batches.list().data[0].id == batch.id
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(batch.id)

    assert sdk.models.delete(model).deleted and sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.completions.create(**asked)  # type: ignore[call-overload]
