"""Completions by the real runtime, through HTTP."""

import asyncio
import contextlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from nextchar.app.completions.completion import MAX_UNREAD_EVENTS, RunningCompletion
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.rooms import ApiSettings
from nextchar.models.anomaly.scorer import Scorer
from nextchar.models.loaded_model import masks_of, suggester_of
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest, Event
from nextchar.models.text.vocabulary import normalize
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import error_of, read_stream, serving_real, until
from tests.models.runtime.engine_calls import Answer
from tests.models.runtime.engine_calls import complete as complete_in_process
from tests.models.runtime.networks import CHARACTERS, saved_model

COMPLETE = "/v1/models/random/complete"
LONG = {"prompt": "abc", "max_characters": 10_000, "seed": 1}


@pytest.fixture
def http(settings: ApiSettings) -> Iterator[httpx.Client]:
    with serving_real(settings, saved_model(int8=True)) as client:
        yield client


def complete(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post(COMPLETE, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [one["text"] for one in answer["completions"]]


def engine_metric(http: httpx.Client, name: str) -> float:
    found = re.search(rf'nextchar_engine_{name}\{{model="random@1"\}} (\S+)', http.get("/metrics").text)
    return float(found[1]) if found else 0.0


def active(http: httpx.Client) -> float:
    return engine_metric(http, "active")


def generated(http: httpx.Client) -> float:
    return engine_metric(http, "generated_characters_total")


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_to_the_first_character_is_observed_once_per_completion(
    http: httpx.Client, stream: bool
) -> None:
    def observed() -> float:
        pattern = r"nextchar_completion_first_character_seconds_count (\S+)"
        found = re.search(pattern, http.get("/metrics").text)
        assert found
        return float(found[1])

    before = observed()
    body = {"prompt": "the ", "max_characters": 9, "n": 2, "stream": stream}
    http.post(COMPLETE, json=body).raise_for_status()
    http.post(COMPLETE, json=body | {"max_characters": 0, "stream": False})
    assert observed() == before + 1


def test_beam_gives_the_engines_likeliest_first(http: httpx.Client) -> None:
    options = {"max_characters": 12, "beam": 8, "n": 3, "length_penalty": 0.5}
    engine = Engine(saved_model())
    expected = complete_in_process(engine, "the ", **options)
    engine.close()
    answer = complete(http, prompt="the ", **options, precision="float32")
    assert texts(answer) == [expected.text(i) for i in range(3)]
    body = {"prompt": "the ", **options, "precision": "float32", "stream": True}
    with http.stream("POST", COMPLETE, json=body) as streamed:
        events = list(read_stream(streamed.iter_lines()))
    assert [data["text"] for _, name, data in events if name == "piece"] == texts(answer)


CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"beam": 4, "temperature": 0.5}, ("temperature", "beam")),
    ({"beam": 4, "top_k": 5}, ("top_k", "beam")),
    ({"beam": 4, "top_p": 0.5}, ("top_p", "beam")),
    ({"beam": 4, "min_p": 0.5}, ("min_p", "beam")),
    ({"beam": 4, "seed": 5}, ("seed", "beam")),
    ({"beam": 4, "logprobs": 1}, ("logprobs", "beam")),
    ({"beam": 4, "no_repeat": 5}, ("no_repeat", "beam")),
    ({"beam": 4, "until": "confidence"}, ("until", "beam")),
    ({"beam": 4, "n": 5}, ("n", "beam")),
    ({"beam": 4, "best_of": 4}, ("best_of", "beam")),
    ({"length_penalty": 2.0}, ("length_penalty", "beam")),
    ({"best_of": 2, "n": 3}, ("best_of", "n")),
    ({"echo": True, "n": 64, "prompt": "a" * 50_000, "max_characters": 9}, ("echo", "prompt")),
    ({"echo": True, "logprobs": 0, "prompt": "a" * 50_001}, ("echo", "logprobs")),
    ({"echo": True, "logprobs": 20, "prompt": "a" * 50_000}, ("logprobs",)),
    ({"logprobs": 20, "n": 64, "max_characters": 1_500}, ("logprobs",)),
]


@pytest.mark.parametrize("stream", [False, True])
def test_contradictions_are_422_and_both_fields_are_named(http: httpx.Client, stream: bool) -> None:
    for options, names in CONTRADICTIONS:
        error = error_of(http.post(COMPLETE, json={"prompt": "a", "stream": stream} | options), 422)
        assert error["param"] == names[0]
        for name in names:
            assert re.search(rf"\b{name}\b", error["message"]), error["message"]


def test_best_of_keeps_those_with_the_fewest_bits_a_character(http: httpx.Client) -> None:
    body = {"prompt": "the ", "seed": 5, "max_characters": 9, "until": "word"}
    everything = complete(http, **body, n=6)["completions"]
    ranked = sorted(everything, key=lambda c: c["bits"] / len(c["text"]))
    answer = complete(http, **body, n=2, best_of=6)
    assert texts(answer) == [c["text"] for c in ranked[:2]]
    assert ranked[:2] != sorted(everything, key=lambda c: c["bits"])[:2]  # they differ in length
    assert answer["usage"]["completion_characters"] == sum(len(c["text"]) for c in everything)


def test_best_of_takes_an_empty_text_only_if_there_is_no_other(http: httpx.Client) -> None:
    body = {"prompt": "the ", "max_characters": 3, "stop": ["t", "f", "q", "b", "l"], "temperature": 1.5}
    for seed in range(20):
        everything = complete(http, **body, seed=seed, n=4)["completions"]
        if 0 < sum(not c["text"] for c in everything) < 4:
            assert texts(complete(http, **body, seed=seed, best_of=4))[0]
            return
    pytest.fail("no seed has both empty texts and others")


def test_echo_begins_with_the_prompt_and_describes_it(http: httpx.Client) -> None:
    body = {"prompt": "the cafe\u0301 → ", "seed": 5, "max_characters": 4, "logprobs": 2}
    plain = complete(http, **body)
    echoed = complete(http, **body, echo=True, n=2)
    prompt = normalize(body["prompt"])
    assert texts(echoed)[0] == prompt + texts(plain)[0]
    one = echoed["completions"][0]
    assert [c["character"] for c in one["logprobs"]] == list(one["text"])
    assert one["logprobs"][len(prompt) :] == plain["completions"][0]["logprobs"]
    assert one["bits"] == plain["completions"][0]["bits"]
    scored = http.post("/v1/models/random/score", json={"text": body["prompt"]}).json()["bits"]
    described = [-c["logprob"] / 0.6931471805599453 for c in one["logprobs"][: len(prompt)]]
    assert described == pytest.approx(scored, abs=1e-3)
    with http.stream("POST", COMPLETE, json=body | {"echo": True, "stream": True}) as streamed:
        pieces = [data for _, name, data in read_stream(streamed.iter_lines()) if name == "piece"]
    assert pieces[0]["text"] == prompt and "".join(p["text"] for p in pieces) == one["text"]


def test_no_repeat_never_gives_the_same_run_twice(http: httpx.Client) -> None:
    (text,) = texts(complete(http, prompt="", seed=1, temperature=0, max_characters=200, no_repeat=3))
    runs = [text[i : i + 3] for i in range(len(text) - 2)]
    assert len(runs) == len(set(runs))


@pytest.mark.parametrize("stream", [False, True])
def test_deadline_gives_what_there_is_and_says_so(http: httpx.Client, stream: bool) -> None:
    http.post(COMPLETE, json={"prompt": ""})  # loads it
    with http.stream("POST", COMPLETE, json=LONG | {"timeout_ms": 1, "stream": stream}) as answer:
        if stream:
            events = list(read_stream(answer.iter_lines()))
            (reason,) = [data["finish_reason"] for _, name, data in events if name == "finished"]
            characters = events[-1][2]["usage"]["completion_characters"]
        else:
            body = json.loads(answer.read())
            reason = body["completions"][0]["finish_reason"]
            characters = body["usage"]["completion_characters"]
            assert len(texts(body)[0]) == characters
    assert reason == "timeout" and 0 <= characters < 1_000  # what takes a millisecond, and some steps


def test_deadline_shorter_than_a_step_gives_an_empty_completion(http: httpx.Client) -> None:
    # Loading the model alone takes longer than this.
    answer = complete(http, prompt="a" * 5000, timeout_ms=1, n=2)
    assert [c["finish_reason"] for c in answer["completions"]] == ["timeout"] * 2
    assert texts(answer) == ["", ""] and answer["usage"]["prompt_characters"] == 5000


def test_precision_is_chosen_by_request(http: httpx.Client) -> None:
    body = LONG | {"max_characters": 80}
    by = {p: texts(complete(http, **body, precision=p)) for p in ("auto", "int8", "float32")}
    assert by["auto"] == by["int8"]
    engine = Engine(saved_model())
    assert by["float32"] == [complete_in_process(engine, "abc", max_characters=80, seed=1).text()]
    engine.close()


def test_precision_that_a_model_does_not_have_is_422(settings: ApiSettings) -> None:
    with serving_real(settings, saved_model()) as http:
        error = error_of(http.post(COMPLETE, json={"prompt": "a", "precision": "int8"}), 422)
        assert error["param"] == "precision" and "int8" in error["message"]
        assert http.post(COMPLETE, json={"prompt": "a"}).status_code == 200


def test_unknown_characters_are_no_error_in_prompts_and_stops(http: httpx.Client) -> None:
    answer = complete(http, prompt="ЖЖЖ→", stop=["→", "Ж!"], seed=1, max_characters=20)
    assert answer["unknown_characters"] == ["Ж", "→"]
    assert answer["completions"][0]["finish_reason"] == "length" and len(texts(answer)[0]) == 20
    assert not set(texts(answer)[0]) - set(CHARACTERS)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_same_seed_gives_same_text_alone_and_in_a_crowd(http: httpx.Client, precision: str) -> None:
    typist = random.Random(1)
    bodies = [
        {
            "prompt": "".join(typist.choices(CHARACTERS, k=typist.choice([0, 3, 80, 300]))),
            "max_characters": typist.randint(1, 40),
            "n": typist.choice([1, 1, 3]),
            "temperature": typist.choice([0, 0.7, 1.0]),
            "top_k": typist.choice([None, 5]),
            "seed": seed,
            "until": typist.choice([None, "word", "line"]),
            "precision": precision,
        }
        for seed in range(60)
    ]
    alone = [texts(complete(http, **body)) for body in bodies]
    order = typist.sample(range(len(bodies)), len(bodies)) * 3
    noise = [{"prompt": "x", "stream": True, "max_characters": 50}, {"prompt": "y", "beam": 3}]
    with ThreadPoolExecutor(12) as threads:
        for body in noise * 10:
            threads.submit(http.post, COMPLETE, json=body)
        crowd = list(threads.map(lambda i: texts(complete(http, **bodies[i])), order))
    assert crowd == [alone[i] for i in order]


# Clients that vanish


@pytest.mark.parametrize("stream", [False, True])
def test_slot_of_a_client_that_vanished_is_free_within_50_ms(http: httpx.Client, stream: bool) -> None:
    http.post(COMPLETE, json={"prompt": ""})  # loads it
    address = urlsplit(str(http.base_url))
    body = json.dumps(LONG | {"n": 10, "stream": stream}).encode()
    head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    taken_s = []
    while not taken_s or (min(taken_s) > 0.05 and len(taken_s) < 50):
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: active(http) > 0)
        left = time.monotonic()
        until(lambda: active(http) == 0)
        taken_s.append(time.monotonic() - left)
    assert min(taken_s) < 0.05, taken_s  # at the least busy moment of a machine that does other things too
    cancelled = re.compile(r'nextchar_engine_cancelled_total\{model="random@1"\} (\S+)')
    until(lambda: float(cancelled.findall(http.get("/metrics").text)[0]) == len(taken_s))


def test_short_completion_is_not_delayed_by_hundreds_of_unread_streams(http: httpx.Client) -> None:
    complete(http, prompt="")
    address = urlsplit(str(http.base_url))
    body = json.dumps(LONG | {"n": 10, "stream": True}).encode()
    head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: active(http) > 64)
        before = generated(http)
        assert len(texts(complete(http, prompt="abc", max_characters=40))[0]) == 40
        assert generated(http) - before < 200 * 10 * 500  # of the streams' two million characters


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no TCP_NOTSENT_LOWAT")
def test_stream_whose_client_reads_nothing_is_not_generated_to_its_end(http: httpx.Client) -> None:
    complete(http, prompt="")
    address = urlsplit(str(http.base_url))
    body = json.dumps(LONG | {"n": 10, "logprobs": 2, "stream": True}).encode()
    head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: generated(http) > 1_000)
        before = -1.0
        while generated(http) != before:
            before = generated(http)
            complete(http, prompt="abc", max_characters=100)  # takes longer than some steps of the stream
            before += 100
        assert before < 100_000
        assert active(http) == 10


def test_stream_that_is_not_read_stops_computing_until_it_is() -> None:
    engine = Engine(saved_model())
    masks = masks_of(engine.saved)
    loaded = Loaded(engine.saved, engine, masks, Scorer(engine, masks), suggester_of(engine.saved, masks))
    request = CompletionRequest(prompt="abc", max_characters=5_000, n=4, seed=1)

    def generated() -> float:
        return engine.stats()["generated_characters"]

    async def read_late() -> list[Event]:
        engines = Engines(Models(open_blobs("memory:///")), lambda _: engine, limit_bytes=1 << 30)
        with RunningCompletion(engines, loaded, request, []) as running:
            until(lambda: generated() > MAX_UNREAD_EVENTS)
            # As soon as others are answered, it stands still.
            for _ in range(3):
                await asyncio.to_thread(complete_in_process, engine, "abc", max_characters=10)
            before = generated()
            await asyncio.to_thread(complete_in_process, engine, "abc", max_characters=10)
            assert generated() == before + 10 < 20_000
            return [event async for event in running.events()]

    events = asyncio.run(read_late())
    # The model is in use by no request and no name refers to it, so it has been unloaded.
    alone = complete_in_process(Engine(saved_model()), "abc", max_characters=5_000, n=4, seed=1)
    engine.close()
    assert [Answer(events).text(i) for i in range(4)] == [alone.text(i) for i in range(4)]


def test_documents_of_a_million_characters_do_not_hold_up_others(http: httpx.Client) -> None:
    typist = random.Random(1)
    document = "".join(typist.choices(CHARACTERS, k=10_000)) * 100
    awkward = "e\u0301😀" * 333_000  # has to be composed, and is all escapes on its way
    stop = threading.Event()
    longest_s = 0.0

    def type_on() -> None:
        nonlocal longest_s
        with httpx.Client(base_url=http.base_url, timeout=60) as other:
            while not stop.is_set():
                began = time.monotonic()
                assert other.post(COMPLETE, json={"prompt": "abc", "max_characters": 1}).status_code == 200
                longest_s = max(longest_s, time.monotonic() - began)

    http.post(COMPLETE, json={"prompt": ""})
    typing = threading.Thread(target=type_on)
    typing.start()
    began = time.monotonic()
    for prompt in (document, awkward):
        # The reading itself is cut short: what is asked here is what comes before it.
        answer = http.post(COMPLETE, json={"prompt": prompt, "timeout_ms": 300, "max_characters": 1})
        assert answer.json()["usage"]["prompt_characters"] == len(normalize(prompt))
    taken_s = time.monotonic() - began
    stop.set()
    typing.join()
    # Preparing a document takes most of the time of its request.
    assert longest_s < max(0.5, taken_s / 2)


def test_body_larger_than_any_document_is_413(http: httpx.Client) -> None:
    answer = http.post(COMPLETE, content=b" " * 13_000_001, headers={"content-type": "application/json"})
    assert error_of(answer, 413)["code"] == "body_too_large"


# Models that come and go


def test_new_version_takes_over_without_a_failed_request(settings: ApiSettings, http: httpx.Client) -> None:
    seen: list[str] = []
    stop = threading.Event()

    def type_on() -> None:
        with httpx.Client(base_url=http.base_url, timeout=60) as client:
            while not stop.is_set():
                seen.append(complete(client, prompt="abc", max_characters=30)["model"])

    with ThreadPoolExecutor(4) as threads:
        typing = [threads.submit(type_on) for _ in range(4)]
        until(lambda: len(seen) > 20)
        new = saved_model(seed=1)
        card = new.card.model_copy(update={"id": "model_2"})
        Models(open_blobs(settings.blobs_url)).publish(card, {"model.onnx": new.file("model.onnx")})
        until(lambda: seen[-1] == "random@2")
        stop.set()
        for one in typing:
            one.result()
    assert set(seen) == {"random@1", "random@2"}


def test_model_deleted_under_use_ends_its_requests_well_and_is_404_then(http: httpx.Client) -> None:
    with http.stream("POST", COMPLETE, json=LONG | {"max_characters": 3000, "stream": True}) as answer:
        events = read_stream(answer.iter_lines())
        assert next(events)[1] == "piece"
        with httpx.Client(base_url=http.base_url) as other:
            assert other.delete("/v1/models/random").status_code == 200
            assert error_of(other.post(COMPLETE, json={"prompt": ""}), 404)["code"] == "model_not_found"
        last = list(events)[-1]
    assert last[1] == "done" and last[2]["usage"]["completion_characters"] == 3000


def test_model_of_a_newer_format_is_503_and_the_others_go_on(
    settings: ApiSettings, http: httpx.Client
) -> None:
    blobs = open_blobs(settings.blobs_url)
    card = json.loads(blobs.read("model_cards/random/000001.json"))
    newer = card | {"format_version": 2, "name": "newer"}
    blobs.write("model_cards/newer/000001.json", json.dumps(newer).encode())
    blobs.write("model_cards/broken/000001.json", b"{")
    for model, code in (("newer", "model_format_unknown"), ("broken", "model_damaged")):
        for body in ({"prompt": ""}, {"prompt": "", "stream": True}):
            assert error_of(http.post(f"/v1/models/{model}/complete", json=body), 503)["code"] == code
    assert complete(http, prompt="")["model"] == "random@1"


def test_damaged_new_version_fails_alone_and_the_old_one_can_be_named(
    settings: ApiSettings, http: httpx.Client
) -> None:
    assert complete(http, prompt="")["model"] == "random@1"
    new = saved_model(seed=1)
    card = new.card.model_copy(update={"id": "model_2"})
    Models(open_blobs(settings.blobs_url)).publish(card, {"model.onnx": b"damaged"})
    until(lambda: http.post(COMPLETE, json={"prompt": ""}).status_code == 503)
    assert http.post("/v1/models/random@1/complete", json={"prompt": ""}).status_code == 200
