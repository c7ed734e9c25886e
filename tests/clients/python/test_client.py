"""Both clients against a server with obvious answers."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar import ClientError, NextcharError, ServerError, ServerUnreachable, Timeout, TrainingFailed
from tests.clients.python.blocking import KINDS, connected
from tests.clients.python.fake_server import FakeServer, FakeTraining


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(server: FakeServer, kind: str) -> Iterator[Any]:
    with connected(kind, server.url, api_key="secret", patience_s=1.0) as client:
        yield client


def test_lists_are_read_to_their_end(client: Any, server: FakeServer) -> None:
    server.models = [f"m@{i}" for i in range(5)]
    assert [m["id"] for m in client.models()] == server.models


def test_prompts_name_a_document_which_is_the_clients_own_unless_one_is_given(
    client: Any, kind: str, server: FakeServer
) -> None:
    def sent(**options: Any) -> list[str]:
        server.requests.clear()
        client.complete("fake", "a", **options)
        list(client.stream("fake", "a", **options))
        client.next("fake", "a", **options)
        return [headers["X-Document"] for _, _, headers, _ in server.requests]

    own = sent()
    assert len(own) == 3 and len(set(own)) == 1 and len(own[0]) >= 20  # of 128 random bits
    assert sent(document="ann") == ["ann"] * 3
    client.ready()
    assert "X-Document" not in server.requests[-1][2]
    with connected(kind, server.url) as other:
        other.complete("fake", "a")
    assert server.requests[-1][2]["X-Document"] != own[0]


def test_an_option_that_is_none_is_left_to_the_service(client: Any, server: FakeServer) -> None:
    client.complete("fake", "a", n=None, seed=3)
    list(client.stream("fake", "a", n=None))
    bodies = [json.loads(body) for *_, body in server.requests]
    assert bodies == [{"prompt": "a", "seed": 3}, {"prompt": "a", "stream": True}]


def test_a_refusal_carries_the_servers_sentence_and_code(client: Any) -> None:
    with pytest.raises(ServerError, match="there is no model 'nobody'") as caught:
        client.model("nobody")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path_is_refused_here(client: Any, name: str) -> None:
    with pytest.raises(ClientError, match="is not a name"):
        client.delete_corpus(name)


@pytest.mark.parametrize("text", ["one\ntwo\n", b"one\ntwo\n"], ids=["str", "bytes"])
def test_one_text_is_not_taken_for_lines(client: Any, server: FakeServer, text: str | bytes) -> None:
    calls = [
        lambda: client.calibrate("fake", text),
        lambda: client.evaluate("fake", text, [True] * len(text)),
        lambda: list(client.score_lines("fake", text)),
    ]
    if isinstance(text, str):  # ingest takes the bytes of several lines
        calls.append(lambda: client.ingest("fake", text))
    for call in calls:
        with pytest.raises(NextcharError, match=r"not (str|bytes); give text\.splitlines\(\)"):
            call()
    assert not server.requests


def test_another_program_at_the_address_is_told_apart(kind: str) -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with connected(kind, transport=page) as client, pytest.raises(NextcharError, match="is not nextchar"):
        client.model("fake")
    missing = httpx.MockTransport(lambda _: httpx.Response(404, text="<html>"))
    with connected(kind, transport=missing) as client, pytest.raises(ServerError, match="HTTP status 404"):
        client.model("fake")


def test_nobody_at_the_address_says_how_to_start_it(kind: str) -> None:
    with (
        connected(kind, "http://127.0.0.1:9", max_retries=0) as client,
        pytest.raises(ServerUnreachable, match="nextchar serve"),
    ):
        client.ready()


@pytest.mark.parametrize("address", ["nonsense", "ftp://host", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(address: str, kind: str) -> None:
    with pytest.raises(ClientError, match="address"), connected(kind, address) as client:
        client.ready()


def test_events_come_once_each_though_the_stream_breaks(client: Any, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.3, evaluations=6)
    server.cut_streams_after = [2, 0, 3]
    events = list(client.follow("job_1"))
    assert [e["id"] for e in events] == list(range(1, 14))
    streams = [headers for _, path, headers, _ in server.requests if path.endswith("/events")]
    assert [h.get("Last-Event-ID") for h in streams] == [None, "2", "2", "5"]


def test_a_job_is_asked_for_with_a_key_of_its_own(client: Any, server: FakeServer) -> None:
    for _ in range(2):
        client.create_job({"corpus": "c", "name": "n"})
    keys = [headers["Idempotency-Key"] for method, path, headers, _ in server.requests if path == "/v1/jobs"]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    ("kind_of_error", "status"), [("invalid_request_error", 422), ("unavailable_error", 503)]
)
def test_an_error_among_scores_has_the_status_of_its_kind(kind_of_error: str, status: int, kind: str) -> None:
    record = {"object": "error", "error": {"type": kind_of_error, "code": "c", "message": "m", "param": None}}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=json.dumps(record) + "\n"))
    with connected(kind, transport=transport) as client, pytest.raises(ServerError) as caught:
        list(client.score_stream("m", [b"a"]))
    assert caught.value.status == status


@pytest.mark.parametrize(
    "form", ["str", "bytes", "path", "file", "text file", "memory", "pieces", "text pieces"]
)
def test_a_text_may_be_given_in_every_form(
    form: str, client: Any, server: FakeServer, tmp_path: Path
) -> None:
    text = "naïve\n" * 20_000
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    with path.open("rb") as file, path.open(encoding="utf-8") as text_file:
        forms: dict[str, Any] = {
            "str": text,
            "bytes": text.encode(),
            "path": path,
            "file": file,
            "text file": text_file,
            "memory": io.BytesIO(text.encode()),
            "pieces": iter([text[:7].encode(), b"", text[7:].encode()]),
            "text pieces": iter([text[at : at + 999] for at in range(0, len(text), 999)]),
        }
        assert client.add_corpus(forms[form])["bytes"] == len(text.encode())
    assert server.requests[-1][3] == text.encode()


def test_a_job_is_waited_for_with_its_progress(client: Any, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=1.2)
    corpus = client.add_corpus("some text")
    job = client.train(corpus, name="mine", seconds=60, preset="tiny")
    seen: list[Any] = []
    assert job.wait(on_progress=seen.append) == "mine@1"
    assert job.record["status"] == "succeeded"
    assert seen[-1]["step"] == 2400
    [body] = server.bodies("POST", "/v1/jobs")
    assert body == {"corpus": corpus["id"], "name": "mine", "budget": {"seconds": 60}, "preset": "tiny"}
    assert [event["type"] for event in job][:2] == ["message", "metrics"]


def test_a_text_with_an_invalid_byte_is_refused_with_advice(client: Any, server: FakeServer) -> None:
    text = "é\udce9 12"  # as open(…, errors="surrogateescape") reads it
    for given in (text, ["a", text], io.StringIO(text)):
        with pytest.raises(NextcharError, match=r"'\\udce9'.*errors=\"replace\""):
            client.add_corpus(given)
    with pytest.raises(NextcharError, match=r"'\\udce9'.*errors=\"replace\""):
        client.train(name="n", text=text)
    assert not server.bodies("POST", "/v1/jobs")


@pytest.mark.parametrize("status", ["failed", "cancelled", "paused"])
def test_a_job_without_a_model_raises(status: str, client: Any, server: FakeServer) -> None:
    job = client.train("corpus_1", name="mine")
    server.training.status_asked = status
    with pytest.raises(TrainingFailed) as caught:
        job.wait()
    assert caught.value.code == ("diverged" if status == "failed" else status)
    assert caught.value.job["id"] == job.id


def test_waiting_ends_at_a_deadline_and_the_job_goes_on(client: Any, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=60)
    job = client.train("corpus_1", name="mine")
    with pytest.raises(Timeout, match="not finished"):
        job.wait(timeout_s=0.1)
    assert job.refresh()["status"] == "running"
