"""The option `expert` of every call: a model with a mixture, and the same network without one."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis

from nextchar.app.rooms import ApiSettings
from nextchar.app.scoring.streams import Streams
from nextchar.models.kernels.mixture_arguments import STATE_COLUMNS
from tests.app.scoring.locked_streams import locked
from tests.app.service import error_of, read_stream, serving_real
from tests.models.runtime.networks import saved_model

TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 20
PROMPT = "the dog sat on the"
LINES = ["the cat sat on the log", "tac eht"]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[httpx.Client]:
    """The API with two models of the same network: `mixed` has a mixture, `alone` has none."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("api"), redis_url=redis_url)
    models = saved_model(name="mixed", int8=True, mixed_text=TEXT), saved_model(name="alone", int8=True)
    with serving_real(settings, *models) as client:
        yield client


def asked(http: httpx.Client, model: str, call: str, **body: Any) -> Any:
    answer = http.post(f"/v1/models/{model}/{call}", json=body)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    for name in ("model", "usage", "id", "created", "system_fingerprint"):
        fields.pop(name, None)
    return fields


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("complete", {"prompt": PROMPT, "seed": 1, "n": 2}),
        ("complete", {"prompt": PROMPT, "seed": 1, "precision": "float32"}),
        ("complete", {"prompt": PROMPT, "beam": 4, "n": 2, "precision": "float32"}),
        ("complete", {"prompt": PROMPT, "temperature": 0, "logprobs": 2, "echo": True, "seed": 1}),
        ("next", {"prompt": PROMPT}),
        ("v1/completions", {"prompt": PROMPT, "seed": 1}),
        ("v1/completions", {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1}),
    ],
)
def test_lstm_answers_as_the_network_alone(http: httpx.Client, call: str, body: dict[str, Any]) -> None:
    mixture = asked(http, "mixed", call, **body)
    assert asked(http, "mixed", call, **body, expert="mixture") == mixture
    network = asked(http, "mixed", call, **body, expert="network")
    assert network != mixture
    for expert in ("mixture", "network", "lstm"):  # a model without a mixture has one answer
        assert asked(http, "alone", call, **body, expert=expert) == network


def test_streams_have_the_text_of_the_whole_answer(http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "seed": 1, "expert": "lstm"}
    [whole] = asked(http, "mixed", "complete", **body)["completions"]
    with http.stream("POST", "/v1/models/mixed/complete", json=body | {"stream": True}) as answer:
        pieces = [data["text"] for _, event, data in read_stream(answer.iter_lines()) if event == "piece"]
    assert "".join(pieces) == whole["text"]


@pytest.mark.parametrize("body", [{"text": PROMPT}, {"lines": LINES, "expected": 2}])
def test_scores_are_the_networks(http: httpx.Client, body: dict[str, Any]) -> None:
    scores = asked(http, "mixed", "score", **body)
    alone = asked(http, "alone", "score", **body)
    # With n-grams the lines have other scores, but the same surprisal.
    assert scores["total_bits"] == alone["total_bits"]
    if "text" in body:
        text = {"prompt": body["text"], "echo": True, "logprobs": 0, "expert": "lstm"}
        [echoed] = asked(http, "mixed", "complete", **text, max_characters=1)["completions"]
        bits = [-entry["logprob"] / np.log(2) for entry in echoed["logprobs"]]
        assert bits[:-1] == pytest.approx(scores["bits"], abs=1e-3)


def test_a_stored_position_of_another_size_restarts_the_stream(http: httpx.Client, redis_url: str) -> None:
    body = {"lines": LINES, "context": "stream", "stream_id": "old"}
    first = asked(http, "mixed", "score", **body)
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        size = 4 * 12 + STATE_COLUMNS  # of the mixture
        with locked(Streams(redis), "mixed@1", "old", size=size) as lock:
            lock.save(np.zeros((1, size), np.float32), lines=5)
    again = asked(http, "mixed", "score", **body)
    assert again["stream"] == {"id": "old", "lines": 2, "restarted": "model_replaced"}
    assert again["lines"] == first["lines"]


@pytest.mark.parametrize("call", ["complete", "next"])
def test_other_experts_are_refused(http: httpx.Client, call: str) -> None:
    answer = http.post(f"/v1/models/mixed/{call}", json={"prompt": "a", "expert": "ngram"})
    assert error_of(answer, 422)["param"] == "expert"
