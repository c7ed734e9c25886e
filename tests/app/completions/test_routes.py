import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from nextchar.app.models.engines import RESOLVE_S
from nextchar.models.runtime.requests import FinishReason
from nextchar.store.local_blobs import Disk
from tests.app.fakes import CHARACTERS, FULL, FakeEngine, publish
from tests.app.service import Service, error_of, read_stream, until

COMPLETE = "/v1/models/fake/complete"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def test_completion_has_text_reason_bits_and_usage(service: Service) -> None:
    answer = service.http.post(COMPLETE, json={"prompt": "the ", "max_characters": 3, "n": 2})
    assert answer.status_code == 200
    expected = {"text": "abc", "finish_reason": "length", "bits": 3.0, "logprobs": None}
    assert answer.json() == {
        "object": "completion",
        "model": "fake@1",
        "early": False,
        "completions": [{"index": 0} | expected, {"index": 1} | expected],
        "usage": {"prompt_characters": 4, "cached_characters": 0, "completion_characters": 6},
        "unknown_characters": [],
    }


def test_every_finish_reason_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "completions.md").read_text()
    table = page.partition("| `finish_reason` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(get_args(FinishReason))


def test_logprobs_are_reported_when_asked_for(service: Service) -> None:
    body = {"prompt": "", "max_characters": 2, "logprobs": 1}
    found = service.http.post(COMPLETE, json=body).json()["completions"][0]["logprobs"]
    assert [one["character"] for one in found] == ["a", "b"]
    assert found[0] == {"character": "a", "logprob": -0.5, "top": [{"character": "a", "logprob": -0.5}]}


def test_stream_brings_every_piece_and_ends_with_usage(service: Service) -> None:
    body = {"prompt": "ü", "max_characters": 3, "n": 2, "stream": True}
    with service.http.stream("POST", COMPLETE, json=body) as answer:
        assert answer.status_code == 200
        events = list(read_stream(answer.iter_lines()))
    texts = ["", ""]
    for _, name, data in events:
        if name == "piece":  # of one character or, where they come fast, of several
            texts[data["index"]] += data["text"]
    assert texts == ["abc", "abc"]
    assert [name for _, name, _ in events if name != "piece"] == ["finished", "finished", "done"]
    (finished,) = [data for _, name, data in events if name == "finished" and data["index"] == 0]
    assert finished == {"index": 0, "finish_reason": "length", "bits": 3.0, "characters": 3}
    usage = {"prompt_characters": 1, "cached_characters": 0, "completion_characters": 6}
    end = {"model": "fake@1", "early": False, "usage": usage, "unknown_characters": ["ü"]}
    assert events[-1][2] == end


def test_prompts_of_a_masked_model_are_masked_in_every_call(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(service.models, name="masked", masks=("numbers",), characters=CHARACTERS + "ⓝ")
    read: list[str] = []
    complete, predict = FakeEngine.complete, FakeEngine.predict

    def completing(engine: FakeEngine, request: Any, on_event: Any) -> Any:
        read.append(request.prompt)
        return complete(engine, request, on_event)

    def predicting(engine: FakeEngine, prompt: str, *arguments: Any, **options: Any) -> Any:
        read.append(prompt)
        return predict(engine, prompt, *arguments, **options)

    monkeypatch.setattr(FakeEngine, "complete", completing)
    monkeypatch.setattr(FakeEngine, "predict", predicting)
    body = {"prompt": "a 12\nb 4711 c", "echo": True, "max_characters": 2}
    answer = service.http.post("/v1/models/masked/complete", json=body).json()
    assert answer["completions"][0]["text"] == "a ⓝ\nb ⓝ cab"
    assert answer["usage"]["prompt_characters"] == 9 and not answer["unknown_characters"]
    for path, body in (
        ("/v1/models/masked/next", {"prompt": "a 12"}),
        ("/v1/completions", {"model": "masked", "prompt": "a 12"}),
        ("/v1/models/masked/infill", {"input_prefix": "a 12", "n_predict": 2}),
    ):
        assert service.http.post(path, json=body).status_code == 200
    assert read == ["a ⓝ\nb ⓝ c", "a ⓝ", "a ⓝ", "a ⓝ"]


def test_next_gives_the_distribution(service: Service) -> None:
    answer = service.http.post("/v1/models/fake@1/next", json={"prompt": "phil", "top": 2})
    assert answer.json() == {
        "object": "distribution",
        "model": "fake@1",
        "early": False,
        "entropy_bits": 0.0,
        "candidates": [{"character": "a", "probability": 1.0}, {"character": "b", "probability": 0.0}],
        "unknown_characters": [],
    }


def test_full_queue_is_429_with_retry_after_for_json_and_streams(service: Service) -> None:
    for stream in (False, True):
        answer = service.http.post(COMPLETE, json={"prompt": FULL, "stream": stream})
        error = error_of(answer, 429)
        assert (error["code"], error["type"]) == ("busy", "rate_limit_error")
        assert answer.headers["retry-after"] == "2"


def test_damaged_model_is_503_and_the_others_go_on(service: Service) -> None:
    card = publish(service.models, name="damaged", characters=CHARACTERS)
    service.blobs.write(f"model_files/{card.id}/model.onnx", b"something else")
    answer = service.http.post("/v1/models/damaged/complete", json={"prompt": ""})
    assert error_of(answer, 503)["code"] == "model_damaged"
    service.blobs.delete(f"model_files/{card.id}/model.onnx")
    answer = service.http.post("/v1/models/damaged/next", json={"prompt": ""})
    assert error_of(answer, 503)["code"] == "model_damaged"
    assert service.http.post(COMPLETE, json={"prompt": ""}).status_code == 200


def test_new_version_answers_within_a_second_and_a_deleted_one_no_more(service: Service) -> None:
    def who() -> str:
        return str(service.http.post(COMPLETE, json={"prompt": ""}).json()["model"])

    assert who() == "fake@1"
    publish(service.models)
    assert RESOLVE_S < 1
    until(lambda: who() == "fake@2")
    assert service.http.delete("/v1/models/fake").json()["id"] == "fake@2"
    assert who() == "fake@1"
    assert service.engines[1].closed.is_set()
    gone = service.http.post("/v1/models/fake@2/complete", json={"prompt": ""})
    assert error_of(gone, 404)["code"] == "model_not_found"


def test_nothing_is_written_to_the_storage_for_a_completion_or_a_score(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = []
    for call in ("open_new", "sync", "unlink", "make_folder"):
        monkeypatch.setattr(Disk, call, lambda *_, call=call: changes.append(call))
    for path, body in (("complete", {"prompt": "a"}), ("next", {"prompt": "a"}), ("score", {"lines": ["a"]})):
        assert service.http.post(f"/v1/models/fake/{path}", json=body).status_code == 200
    assert changes == []


def test_a_completion_that_cannot_start_does_not_hold_its_model(service: Service) -> None:
    assert error_of(service.http.post(COMPLETE, json={"prompt": FULL}), 429)["code"] == "busy"
    [engine] = service.engines
    assert service.http.delete("/v1/models/fake").status_code == 200
    until(engine.closed.is_set)


@pytest.mark.parametrize("path", [COMPLETE, "/v1/completions"])
def test_time_spent_before_the_engine_counts_against_the_deadline(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    # The header arrives first, then the body, from which the deadline counts.
    arrivals_s = iter([90.0, 100.0])
    arriving = SimpleNamespace(perf_counter=lambda: next(arrivals_s), monotonic=time.monotonic)
    monkeypatch.setattr("nextchar.app.http.connections.time", arriving)
    monkeypatch.setattr("nextchar.app.completions.requests.time", SimpleNamespace(perf_counter=lambda: 103.0))
    asked: list[float | None] = []
    complete = FakeEngine.complete

    def noted(engine: FakeEngine, request: Any, on_event: Any) -> Any:
        asked.append(request.timeout_s)
        return complete(engine, request, on_event)

    monkeypatch.setattr(FakeEngine, "complete", noted)
    assert service.http.post(path, json={"prompt": "a", "timeout_ms": 10_000}).status_code == 200
    assert asked == [pytest.approx(7.0)]
