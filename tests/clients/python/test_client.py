"""The client against a server with obvious answers."""

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from nextchar import Client, ClientError, ServerError, ServerUnreachable
from nextchar.sse import ServerSentEvent

from tests.clients.python.fake_server import FakeServer, FakeTraining


@pytest.fixture
def client(server: FakeServer):
    with Client(server.url, api_key="secret", patience_s=1.0) as client:
        yield client


def test_a_text_goes_up_as_it_is(client: Client, server: FakeServer) -> None:
    corpus = client.add_corpus("naïve\n", name="words")
    assert (corpus["name"], corpus["characters"], corpus["bytes"]) == ("words", 6, 7)
    assert client.corpus("words")["id"] == client.add_corpus(io.BytesIO("naïve\n".encode()))["id"]


def test_lists_are_read_to_their_end(client: Client, server: FakeServer) -> None:
    server.models = [f"m@{i}" for i in range(5)]
    assert [m["id"] for m in client.models()] == server.models


def test_the_key_is_sent(client: Client, server: FakeServer) -> None:
    client.ready()
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"


def test_a_refusal_carries_the_servers_sentence_and_code(client: Client) -> None:
    with pytest.raises(ServerError, match="there is no model 'nobody'") as caught:
        client.model("nobody")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path_is_refused_here(client: Client, name: str) -> None:
    with pytest.raises(ClientError, match="is not a name"):
        client.delete_corpus(name)


def test_names_are_quoted(client: Client, server: FakeServer) -> None:
    with pytest.raises(ServerError, match=r"there is no corpus 'a/b\?c#d'"):
        client.corpus("a/b?c#d")


def test_another_program_at_the_address_is_told_apart(client: Client) -> None:
    with pytest.raises(ServerError, match="HTTP status 404"):
        client._call("GET", "/elsewhere")


def test_nobody_at_the_address_says_how_to_start_it() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable, match="make serve"):
        client.ready()


@pytest.mark.parametrize("address", ["nonsense", "ftp://host", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(ClientError, match="address"), Client(address) as client:
        client.ready()


def test_events_come_once_each_though_the_stream_breaks(client: Client, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.3, evaluations=6)
    server.cut_streams_after = [2, 0, 3]
    events = list(client.follow("job_1"))
    assert [e["id"] for e in events] == list(range(1, 14))
    streams = [headers for _, path, headers, _ in server.requests if path.endswith("/events")]
    assert [h.get("Last-Event-ID") for h in streams] == [None, "2", "2", "5"]


def test_following_ends_at_once_for_a_job_that_is_over(client: Client, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.001, evaluations=1)
    assert [e["type"] for e in client.follow("job_1")] == ["message", "metrics", "sample"]
    assert list(client.follow("job_1", after=3)) == []


def test_following_gives_up_when_the_server_stays_away(server: FakeServer) -> None:
    began = time.monotonic()
    with Client("http://127.0.0.1:9", patience_s=0.3) as client, pytest.raises(ServerUnreachable):
        list(client.follow("job_1"))
    assert time.monotonic() - began < 5


def test_a_streamed_completion_is_the_plain_one_in_pieces(client: Client) -> None:
    plain = client.complete("fake", "hello")["completions"][0]["text"]
    events = list(client.stream("fake", "hello"))
    assert "".join(e["data"]["text"] for e in events if e["event"] == "piece") == plain
    assert [e["event"] for e in events[-2:]] == ["finished", "done"]


def test_downloads_come_whole(client: Client) -> None:
    assert b"".join(client.download("fake@1", "model.keras")) == b"k" * 70_000


def test_a_job_is_asked_for_with_a_key_of_its_own(client: Client, server: FakeServer) -> None:
    for _ in range(2):
        client.create_job({"corpus": "c", "name": "n"})
    keys = [headers["Idempotency-Key"] for method, path, headers, _ in server.requests if path == "/v1/jobs"]
    assert len(set(keys)) == 2


def test_following_gets_over_a_break_after_a_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = iter(["silence, and a break", "the end"])

    def stream(_: Client, __: str, ___: int, opened: Callable[[], None]) -> Iterator[ServerSentEvent]:
        opened()
        if next(attempts) != "the end":
            time.sleep(0.3)
            raise ServerUnreachable("it was restarted")
        yield ServerSentEvent("done", "{}", None)

    monkeypatch.setattr(Client, "_job_stream", stream)
    with Client("http://127.0.0.1:9", patience_s=0.1) as client:
        assert list(client.follow("job_1")) == []


@pytest.mark.parametrize(("kind", "status"), [("invalid_request_error", 422), ("unavailable_error", 503)])
def test_an_error_among_scores_has_the_status_of_its_kind(
    kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"object": "error", "error": {"type": kind, "code": "c", "message": "m", "param": None}}

    @contextmanager
    def opened(*_: object, **__: object) -> Iterator[httpx.Response]:
        yield httpx.Response(200, content=json.dumps(record).encode() + b"\n")

    monkeypatch.setattr(Client, "_open", opened)
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError) as caught:
        list(client.score_stream("m", [b"a"]))
    assert caught.value.status == status
