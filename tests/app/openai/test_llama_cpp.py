import json
import random
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from nextchar.app.openai.llama_cpp import EXTRA_CHARACTERS, MIN_CONTEXT_CHARACTERS, end_of, recent_context
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import ENDLESS, SLOW_S, publish
from tests.app.service import Service, error_of, serving_real, until
from tests.models.runtime.networks import saved_model

FROM_LLAMA_VIM: dict[str, Any] = {
    "input_prefix": "hello\n",
    "input_suffix": "\n",
    "input_extra": [{"text": "other file", "time": [1, 2], "filename": "a.py"}],
    "prompt": "you ",
    "n_predict": 24,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_ms", "truncated", "tokens_cached"],
}

FROM_LLAMA_VSCODE: dict[str, Any] = {
    "input_prefix": "hello\n",
    "input_suffix": "\n",
    "input_extra": [],
    "prompt": "you ",
    "n_predict": 24,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
    "lora": [{"id": 0, "scale": 0.5}],
}


def greedy_line(http: httpx.Client, prompt: str, characters: int) -> str:
    body = {"prompt": prompt, "temperature": 0, "max_characters": characters, "until": "line"}
    return str(http.post("/v1/models/random/complete", json=body).json()["completions"][0]["text"])


def test_llama_vim_gets_the_rest_of_the_line_in_the_fields_it_reads(http: httpx.Client) -> None:
    answer = http.post("/infill", json=FROM_LLAMA_VIM)
    expected = greedy_line(http, "other file\nhello\nyou ", 24)
    assert expected and answer.text.startswith(f'{{"content":{json.dumps(expected)}')
    assert set(answer.json()) == set(FROM_LLAMA_VIM["response_fields"])
    assert answer.json()["truncated"] is False


def test_llama_vscode_gets_the_same_with_all_fields(http: httpx.Client) -> None:
    for path in ("/infill", "/infill?model=random", "/v1/models/random/infill"):
        answer = http.post(path, json=FROM_LLAMA_VSCODE)
        assert '"content":"' in answer.text
        found = answer.json()
        assert found["content"] == greedy_line(http, "hello\nyou ", 24)
        assert found["stop"] is True and found["model"] == "random@1"
        assert found["tokens_predicted"] == len(found["content"]) == found["timings"]["predicted_n"]
        assert found["tokens_evaluated"] == len("hello\nyou ")
        assert found["timings"]["prompt_n"] + found["tokens_cached"] == found["tokens_evaluated"]


def test_warming_up_writes_nothing_and_makes_the_next_call_read_nothing(http: httpx.Client) -> None:
    warm = FROM_LLAMA_VSCODE | {"input_prefix": "warm me up, please\n", "n_predict": 0}
    found = http.post("/infill", json=warm).json()
    assert (found["content"], found["tokens_predicted"]) == ("", 0)
    after = http.post("/infill", json=warm | {"n_predict": 5}).json()
    assert after["timings"]["prompt_n"] == 1 and after["content"]
    empty = {"input_prefix": "", "prompt": "", "n_predict": 0, "samplers": [], "response_fields": [""]}
    assert http.post("/infill", json=empty | {"t_max_prompt_ms": 1, "t_max_predict_ms": 1}).json() == {}


def test_times_are_limits(service: Service) -> None:
    publish(service.models)
    service.http.post("/infill", json={"prompt": "a", "n_predict": 1})
    for limit in ("t_max_prompt_ms", "t_max_predict_ms"):
        prompt = ENDLESS if limit == "t_max_predict_ms" else "a"
        limit_ms = 60 if prompt == ENDLESS else 60_000
        began = time.monotonic()
        found = service.http.post("/infill", json={"prompt": prompt, "n_predict": 9, limit: limit_ms}).json()
        assert time.monotonic() - began < SLOW_S / 2
        assert found["content"] == ("a" if prompt == ENDLESS else "abcdefghi")
    until(lambda: all(ticket.cancelled.is_set() for ticket in service.engines[0].tickets))


def test_stream_is_the_same_text_and_ends_with_the_figures(http: httpx.Client) -> None:
    answer = http.post("/infill", json=FROM_LLAMA_VSCODE | {"stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert "".join(event["content"] for event in events) == greedy_line(http, "hello\nyou ", 24)
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["content"] == "" and events[-1]["timings"]["predicted_n"] > 0


def test_stop_strings_and_wrapped_prompts_are_respected(http: httpx.Client) -> None:
    text = greedy_line(http, "hello\nyou ", 24)
    ended = http.post("/infill", json=FROM_LLAMA_VSCODE | {"stop": [text[3:5]]}).json()
    assert ended["content"] == text[: text.index(text[3:5])] and ended["stop_type"] == "word"
    wrapped = {"prompt": "<PRE> hello\nyou  <SUF>x <MID>", "n_predict": 24}
    assert http.post("/infill", json=wrapped).json()["content"] == text


def test_default_is_the_newest_model_or_the_one_of_the_settings(
    settings: ApiSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving_real(settings) as http:
        assert error_of(http.post("/infill", json={"prompt": "a"}), 404)["code"] == "model_not_found"
        assert http.get("/health").json() == {"status": "ok"}
    named = settings.model_copy(
        update={"default_model": "chosen", "data_dir": tmp_path_factory.mktemp("other")}
    )
    with serving_real(named, saved_model()) as http:
        assert "'chosen'" in error_of(http.post("/infill", json={"prompt": "a"}), 404)["message"]
        assert http.post("/infill", json={"prompt": "a", "model": "random"}).status_code == 200


def test_props_say_what_is_served(http: httpx.Client) -> None:
    for path in ("/props", "/props?model=random", "/v1/models/random/props"):
        assert http.get(path).json()["model_alias"] == "random@1"
    assert http.get("/v1/models/random/health").json() == {"status": "ok"}
    assert error_of(http.get("/v1/models/nobody/health"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "wrong", [{"n_predict": -2}, {"prompt": 3}, {"stop": [""]}, {"temperature": -1}, {"t_max_predict_ms": -1}]
)
def test_wrong_fields_are_422_and_named(http: httpx.Client, wrong: dict[str, Any]) -> None:
    error = error_of(http.post("/infill", json={"prompt": "a"} | wrong), 422)
    assert error["param"].split(".")[0] == next(iter(wrong))


# What is read of a long prefix


def test_long_text_is_read_from_a_line_on() -> None:
    lines = [f"line {i} {'x' * (i % 40)}\n" for i in range(500)]
    text = "".join(lines)
    found = recent_context(text)
    assert text.endswith(found) and found.startswith("line ")
    assert MIN_CONTEXT_CHARACTERS <= len(found) <= 2 * MIN_CONTEXT_CHARACTERS


def test_texts_of_other_files_are_read_from_a_line_on_the_last_ones_first() -> None:
    assert end_of([]) == end_of([" ", ""]) == ""
    assert end_of(["one", "two\n\n"]) == "one\ntwo\n"
    lines = [f"line {i}\n" for i in range(1000)]
    found = end_of(["".join(lines[:500]), "".join(lines[500:])])
    assert "".join(lines).endswith(found) and found.startswith("line ")
    assert EXTRA_CHARACTERS - 10 < len(found) <= EXTRA_CHARACTERS


def test_context_start_is_stable_while_the_window_moves() -> None:
    chooser = random.Random(1)
    lines = [f"{chooser.getrandbits(60)} {'y' * chooser.randrange(40)}\n" for _ in range(400)]
    starts = []
    for cursor in range(200, 400):
        window = "".join(lines[cursor - 150 : cursor])  # as editors send it
        starts.append(recent_context(window)[:20])
    changes = sum(a != b for a, b in pairwise(starts))
    assert changes < 40  # of 200 lines typed
