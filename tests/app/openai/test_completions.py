import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from nextchar.app.openai.completions import MAX_CONCURRENT_PROMPTS
from tests.app.fakes import BROKEN, ENDLESS, FULL, publish
from tests.app.raw_http import connected
from tests.app.service import Service, error_of, until
from tests.models.runtime.networks import CHARACTERS

CALL = "/v1/completions"


@pytest.fixture(scope="module")
def sdk(http: httpx.Client) -> Iterator[openai.OpenAI]:
    """OpenAI's own client for it."""
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ids_of(text: str) -> list[int]:
    characters = "".join(sorted(CHARACTERS))
    return [characters.index(character) + 1 for character in text]


def streamed(sdk: openai.OpenAI, **asked: Any) -> tuple[dict[int, str], list[openai.types.Completion]]:
    """Return the text of each choice, and the chunks."""
    chunks = list(sdk.completions.create(stream=True, **asked))
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts, chunks


def test_sdk_completes_with_all_that_belongs_to_the_shape(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="random", prompt="hello", max_tokens=7, seed=1, n=2, user="me")
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.model == answer.system_fingerprint == "random@1"
    assert [(c.index, len(c.text), c.finish_reason) for c in answer.choices] == [
        (0, 7, "length"),
        (1, 7, "length"),
    ]
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 14)
    assert answer.usage.total_tokens == 19
    again = sdk.completions.create(model="random@1", prompt="hello", max_tokens=7, seed=1, n=2, user="me")
    assert [c.text for c in again.choices] == [c.text for c in answer.choices]
    assert again.usage and again.usage.prompt_tokens_details
    assert again.usage.prompt_tokens_details.cached_tokens == 4


def test_same_seed_is_the_same_text_as_in_our_own_call(http: httpx.Client, sdk: openai.OpenAI) -> None:
    ours = http.post("/v1/models/random/complete", json={"prompt": "hello", "seed": 5, "temperature": 0.7})
    text = sdk.completions.create(model="random", prompt="hello", seed=5, temperature=0.7, max_tokens=40)
    assert text.choices[0].text == ours.json()["completions"][0]["text"]
    negative = [sdk.completions.create(model="random", prompt="a", seed=-9).choices[0].text for _ in range(2)]
    assert negative[0] == negative[1]


@pytest.mark.parametrize("prompt", ["hello", ids_of("hello"), ["hello"], [ids_of("hello")]])
def test_every_form_of_a_prompt_is_the_same_prompt(sdk: openai.OpenAI, prompt: Any) -> None:
    expected = sdk.completions.create(model="random", prompt="hello", seed=2).choices[0].text
    assert sdk.completions.create(model="random", prompt=prompt, seed=2).choices[0].text == expected


def test_many_prompts_are_answered_in_order_each_n_times(sdk: openai.OpenAI) -> None:
    prompts = [f"text {i}" for i in range(40)]
    together = sdk.completions.create(model="random", prompt=prompts, n=2, temperature=0, max_tokens=5)
    alone = [
        sdk.completions.create(model="random", prompt=p, temperature=0, max_tokens=5).choices[0].text
        for p in prompts
    ]
    assert [c.index for c in together.choices] == list(range(80))
    assert [c.text for c in together.choices] == [text for text in alone for _ in range(2)]
    assert together.usage and together.usage.prompt_tokens == sum(map(len, prompts))


def test_no_prompt_is_a_text_from_its_beginning(sdk: openai.OpenAI) -> None:
    expected = sdk.completions.create(model="random", prompt="", seed=2).choices[0].text
    assert sdk.completions.create(model="random", prompt=None, seed=2).choices[0].text == expected


@pytest.mark.parametrize("prompt", ["hello", ["hello", "you", "é'x"]])
def test_stream_is_the_same_text_and_ends_with_the_usage(sdk: openai.OpenAI, prompt: Any) -> None:
    asked = {"model": "random", "prompt": prompt, "seed": 3, "n": 2, "max_tokens": 30, "stop": ["qq"]}
    whole = sdk.completions.create(**asked)
    texts, chunks = streamed(sdk, **asked, stream_options={"include_usage": True})
    assert texts == {choice.index: choice.text for choice in whole.choices}
    ends = {c.index: c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].choices == [] and chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_of_more_prompts_than_may_wait_is_complete(sdk: openai.OpenAI) -> None:
    asked = {"model": "random", "prompt": ["a", "b", "c", "d"] * 256, "temperature": 0, "max_tokens": 2}
    whole = sdk.completions.create(**asked)
    texts, chunks = streamed(sdk, **asked, stream_options={"include_usage": True})
    assert texts == {choice.index: choice.text for choice in whole.choices} and len(texts) == 1024
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 2048


def test_stream_ends_with_done_and_names_no_events(http: httpx.Client) -> None:
    body = {"model": "random", "prompt": "a", "stream": True, "max_tokens": 2}
    answer = http.post(CALL, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n") and "event:" not in answer.text


def test_logprobs_are_the_models_own(http: httpx.Client, sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model="random", prompt="abc", max_tokens=4, logprobs=3, seed=1, echo=True, temperature=0.5
    )
    found = answer.choices[0].logprobs
    assert found and found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.text_offset == list(range(7))
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    for i in range(1, 7):
        prefix = answer.choices[0].text[:i]
        following = http.post("/v1/models/random/next", json={"prompt": prefix, "top": 3}).json()
        likeliest = {c["character"]: math.log(c["probability"]) for c in following["candidates"]}
        assert found.top_logprobs[i] == pytest.approx(
            likeliest | {found.tokens[i]: found.token_logprobs[i]}, abs=1e-4
        )


def test_streamed_logprobs_are_those_of_the_whole(sdk: openai.OpenAI) -> None:
    asked = {"model": "random", "prompt": "abc", "seed": 1, "logprobs": 2, "echo": True, "max_tokens": 12}
    whole = sdk.completions.create(**asked).choices[0].logprobs  # type: ignore[call-overload]
    _, chunks = streamed(sdk, **asked)
    parts = [c.logprobs for chunk in chunks for c in chunk.choices if c.logprobs]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [one for part in parts for one in getattr(part, field)]
        assert joined == getattr(whole, field)


def test_logprobs_without_echo_begin_behind_the_prompt(sdk: openai.OpenAI) -> None:
    found = sdk.completions.create(model="random", prompt="abc", max_tokens=2, logprobs=0).choices[0].logprobs
    assert found and found.text_offset == [3, 4] and found.top_logprobs is None
    assert found.token_logprobs and all(p < 0 for p in found.token_logprobs)


def test_no_tokens_with_echo_scores_as_our_score_does(http: httpx.Client, sdk: openai.OpenAI) -> None:
    text = "hello you, é€ that's it"
    scored = http.post("/v1/models/random/score", json={"text": text}).json()
    for prompt in (
        "\n" + text,
        [*ids_of("\n"), *http.post("/tokenize", json={"prompt": text}).json()["tokens"]],
    ):
        answer = sdk.completions.create(model="random", prompt=prompt, max_tokens=0, echo=True, logprobs=1)
        found = answer.choices[0].logprobs
        assert found and found.token_logprobs
        bits = [-p / 0.6931471805599453 for p in found.token_logprobs[1:]]
        assert bits == pytest.approx(scored["bits"], abs=1e-3)
    assert answer.choices[0].text.endswith("é� that's it")
    assert answer.choices[0].finish_reason == "length"
    texts, chunks = streamed(sdk, model="random", prompt=["ab", "cd"], max_tokens=0, echo=True)
    assert texts == {0: "ab", 1: "cd"} and len(chunks) == 2


def test_bias_and_penalties_reach_the_decoding(http: httpx.Client, sdk: openai.OpenAI) -> None:
    [q] = http.post("/tokenize", json={"prompt": "q"}).json()["tokens"]
    forced = sdk.completions.create(model="random", prompt="a", logit_bias={str(q): 100}, max_tokens=9)
    assert forced.choices[0].text == "q" * 9
    asked = {"model": "random", "prompt": "a", "temperature": 0, "max_tokens": 99}
    plain = sdk.completions.create(**asked).choices[0].text  # type: ignore[call-overload]
    varied = sdk.completions.create(**asked, frequency_penalty=2).choices[0].text  # type: ignore[call-overload]
    assert len(set(varied)) > len(set(plain))


def test_best_of_keeps_the_likeliest(sdk: openai.OpenAI) -> None:
    asked = {"model": "random", "prompt": "a", "seed": 1, "max_tokens": 8, "logprobs": 0}
    made = sdk.completions.create(**asked, n=6)  # type: ignore[call-overload]
    best = sdk.completions.create(**asked, n=2, best_of=6)  # type: ignore[call-overload]
    by_sum = sorted(made.choices, key=lambda c: -sum(c.logprobs.token_logprobs))
    assert [c.text for c in best.choices] == [c.text for c in by_sum[:2]]


def test_stop_ends_before_itself(sdk: openai.OpenAI) -> None:
    asked = {"model": "random", "prompt": "a", "seed": 1, "max_tokens": 50}
    text = sdk.completions.create(**asked).choices[0].text  # type: ignore[call-overload]
    ended = sdk.completions.create(**asked, stop=text[10:12]).choices[0]  # type: ignore[call-overload]
    assert ended.finish_reason == "stop" and ended.text == text[: text.index(text[10:12])]


def test_wrapped_prompt_is_completed_from_before_the_cursor(sdk: openai.OpenAI) -> None:
    wrapped = "<|fim_prefix|>hello<|fim_suffix|>rest<|fim_middle|>"
    plain = sdk.completions.create(model="random", prompt="hello", seed=1).choices[0].text
    assert sdk.completions.create(model="random", prompt=wrapped, seed=1).choices[0].text == plain


def test_empty_model_is_the_default_and_a_model_in_the_path_wins(http: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    assert http.post(CALL, json=body).json()["model"] == "random@1"
    named = http.post("/v1/models/random/v1/completions", json=body | {"model": "nobody"})
    assert named.json()["model"] == "random@1"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 65}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [99]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"echo": True, "prompt": "a" * 50_001, "logprobs": 1}, "echo"),
        ({"echo": True, "prompt": ["a" * 1000] * 1000, "logprobs": 1}, "logprobs"),
        ({"echo": True, "prompt": ["a" * 1000] * 1000, "n": 64, "max_tokens": 0}, "echo"),
        ({"prompt": ["a"] * 1000, "max_tokens": 90, "logprobs": 20}, "logprobs"),
        ({"frequency": 1}, "frequency"),
        ({"n": 3, "best_of": 2}, None),
        ({"best_of": 2, "stream": True}, None),
        ({"stream_options": {"include_usage": True}}, None),
        ({"prompt": ["a"] * 60, "max_tokens": 2000}, None),
        ({"prompt": [*[[1]] * 50, [99]], "stream": True}, "prompt"),
        ({"prompt": ["a"] * 50, "logit_bias": {"100": 1}, "stream": True}, "logit_bias"),
    ],
)
def test_wrong_requests_are_400_and_name_the_field(
    http: httpx.Client, wrong: dict[str, Any], param: str | None
) -> None:
    answer = http.post(CALL, json={"model": "random", "prompt": "a"} | wrong)
    error = error_of(answer, 400)
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"].split(".")[0] == param


def test_sdk_raises_its_own_classes(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from 1 to"):
        sdk.completions.create(model="random", prompt="a", logit_bias={"9999": 1})
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'"):
        sdk.completions.create(model="nobody", prompt="a")


def test_null_fields_are_their_defaults(http: httpx.Client) -> None:
    nulls = dict.fromkeys(
        ("best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "stop",
         "presence_penalty", "seed", "stream", "stream_options", "suffix", "temperature", "top_p", "user")
    )  # fmt: skip
    answer = http.post(CALL, json={"model": "random", "prompt": "a"} | nulls)
    assert len(answer.json()["choices"][0]["text"]) == 16


def test_errors_of_full_and_broken_engines_are_those_of_the_native_api(service: Service) -> None:
    publish(service.models)
    busy = service.http.post(CALL, json={"model": "fake", "prompt": ["a", FULL]})
    assert error_of(busy, 429)["code"] == "busy" and busy.headers["retry-after"] == "2"
    busy = service.http.post(CALL, json={"model": "fake", "prompt": ["a", FULL], "stream": True})
    assert error_of(busy, 429)["code"] == "busy"
    broken = service.http.post(CALL, json={"model": "fake", "prompt": ["a", BROKEN]})
    assert error_of(broken, 500)["code"] == "internal_error"
    streamed = service.http.post(CALL, json={"model": "fake", "prompt": BROKEN, "stream": True})
    assert '"code":"internal_error"' in streamed.text.splitlines()[-2] and "secret" not in streamed.text


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_frees_every_slot(service: Service, stream: bool) -> None:
    publish(service.models)
    service.http.post(CALL, json={"model": "fake", "prompt": "a"})  # so that it is loaded
    body = {"model": "fake", "prompt": ["a", *[ENDLESS] * 2 * MAX_CONCURRENT_PROMPTS], "stream": stream}
    begun = 1 + MAX_CONCURRENT_PROMPTS  # one begins when "a" has ended
    sent = json.dumps(body).encode()
    head = f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connected(service, f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent):
        until(lambda: len(service.engines[0].tickets) == 1 + begun)
    until(lambda: [t.cancelled.is_set() for t in service.engines[0].tickets[1:]] == [True] * begun)
    assert service.http.delete("/v1/models/fake").status_code == 200
    until(service.engines[0].closed.is_set)


def test_models_are_listed_and_deleted_as_the_sdk_wants_it(service: Service) -> None:
    publish(service.models)
    with openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any", max_retries=0) as sdk:
        [model] = sdk.models.list()
        assert (model.id, model.object, model.owned_by) == ("fake@1", "model", "nextchar")
        assert model.created == 1795563600
        assert sdk.models.retrieve("fake").id == "fake@1"
        assert sdk.models.delete("fake@1").deleted
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("fake")


def test_model_of_bytes_is_asked_and_answers_in_text(service: Service) -> None:
    publish(service.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")
    body = {"model": "raw", "prompt": "né\u0301", "max_tokens": 9, "echo": True, "logprobs": 1}
    answer = service.http.post(CALL, json=body).json()
    assert answer["choices"][0]["text"] == "né\u0301ä→ä\ufffd"
    assert answer["choices"][0]["logprobs"]["tokens"][:2] == ["n", "\\xc3"]
    assert answer["usage"]["prompt_tokens"] == 5
    streamed = service.http.post(CALL, json=body | {"stream": True, "logprobs": None}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "né\u0301ä→ä\ufffd" and "\ufffd" not in "".join(texts[:-1])
    ids = service.http.post("/tokenize", json={"model": "raw", "prompt": "é"}).json()["tokens"]
    back = service.http.post("/detokenize", json={"model": "raw", "tokens": ids}).json()
    assert len(ids) == 2 and back["prompt"] == "é"
    assert service.http.get("/tokenizer_info?model=raw").json()["tokenizer_class"] == "bytes"
