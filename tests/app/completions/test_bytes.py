"""What is not text goes in as bytes, is trained on as bytes, and comes back as text where it is any."""

from typing import Any

import pytest

from tests.app.fakes import publish
from tests.app.service import Service, error_of, read_stream

COMPLETE = "/v1/models/raw/complete"
DATA = bytes(range(256)) * 2


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")


def _uploaded(service: Service) -> str:
    answer = service.http.post("/v1/corpora?encoding=bytes&name=raw", content=DATA)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["encoding"], answer.json()["characters"]) == ("bytes", 512)
    return str(answer.json()["id"])


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain; charset=latin-1"])
def test_bytes_are_taken_as_they_are_whatever_they_are_called(service: Service, kind: str) -> None:
    headers = {"content-type": kind}
    answer = service.http.post("/v1/corpora", params={"encoding": "bytes"}, content=DATA, headers=headers)
    assert answer.status_code == 201
    back = service.http.get(f"/v1/corpora/{answer.json()['id']}/text")
    assert (back.content, back.headers["content-type"]) == (DATA, "application/octet-stream")


def test_without_the_encoding_they_are_refused_with_a_hint(service: Service) -> None:
    error = error_of(service.http.post("/v1/corpora", content=DATA), 422)
    assert error["code"] == "corpus_not_utf8"
    assert "encoding=bytes" in error["message"]
    assert (
        error_of(service.http.post("/v1/corpora?encoding=latin-1", content=DATA), 422)["param"] == "encoding"
    )


def test_a_job_on_bytes_has_their_alphabet_and_no_other(service: Service) -> None:
    corpus = _uploaded(service)
    body = {"corpus": corpus, "name": "raw", "preset": "tiny"}
    assert service.http.post("/v1/jobs", json=body).json()["alphabet"] == "bytes"
    error = error_of(service.http.post("/v1/jobs", json=body | {"alphabet": "characters"}), 422)
    assert (error["code"], error["param"]) == ("contradicts_corpus", "alphabet")


def test_a_text_may_be_trained_on_as_bytes(service: Service) -> None:
    body = {"corpus": service.upload("é" * 150), "name": "raw", "preset": "tiny"}
    assert error_of(service.http.post("/v1/jobs", json=body), 422)["code"] == "corpus_too_small"
    job = service.http.post("/v1/jobs", json=body | {"alphabet": "bytes"}).json()
    assert job["alphabet"] == "bytes"


def test_a_prompt_is_counted_in_bytes_and_a_broken_end_is_replaced(service: Service) -> None:
    answer = service.http.post(COMPLETE, json={"prompt": "né\u0301", "max_characters": 9}).json()
    assert answer["completions"][0]["text"] == "ä→ä\ufffd"
    assert answer["usage"] == {"prompt_characters": 5, "cached_characters": 0, "completion_characters": 9}
    assert answer["unknown_characters"] == []


def test_a_stream_brings_no_half_of_a_character(service: Service) -> None:
    body = {"prompt": "x", "max_characters": 12, "stream": True}
    with service.http.stream("POST", COMPLETE, json=body) as answer:
        events = list(read_stream(answer.iter_lines()))
    pieces = [data["text"] for _, name, data in events if name == "piece"]
    assert "".join(pieces) == "ä→ä→ä"
    assert not any("\ufffd" in piece or not piece for piece in pieces)
    body["max_characters"] = 3
    with service.http.stream("POST", COMPLETE, json=body) as answer:
        events = list(read_stream(answer.iter_lines()))
    assert "".join(data["text"] for _, name, data in events if name == "piece") == "ä\ufffd"
    assert [name for _, name, _ in events][-2:] == ["finished", "done"]


def test_a_byte_by_itself_is_called_by_its_number(service: Service) -> None:
    body = {"prompt": "", "max_characters": 2, "logprobs": 1}
    answer = service.http.post(COMPLETE, json=body).json()
    assert [one["character"] for one in answer["completions"][0]["logprobs"]] == ["\\xc3", "\\xa4"]
    assert service.http.get("/v1/models/raw").json()["alphabet"] == "bytes"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("complete", {"max_characters": 1, "logprobs": 5}),
        ("v1/completions", {"max_tokens": 0, "logprobs": 5}),
    ],
)
def test_an_echo_with_log_probabilities_is_bounded_in_bytes(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    for prompt, status in (("a" * 20_000, 200), ("→" * 20_000, 422)):
        sent = body | {"prompt": prompt, "echo": True}
        answer = service.http.post(f"/v1/models/raw/{path}", json=sent)
        assert answer.status_code == (400 if status == 422 and "v1" in path else status), answer.text
        assert status == 200 or answer.json()["error"]["param"] in ("echo", "logprobs")
