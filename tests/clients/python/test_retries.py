"""Requests are sent again where that is safe, and nowhere else; errors are exceptions by their kind."""

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx
import pytest

import nextchar
from nextchar import NextcharError, RateLimited, ServerError, ServerUnreachable, Timeout, Unavailable
from nextchar.connection import AsyncioTransport, BlockingTransport
from tests.clients.python.blocking import KINDS, connected

_JOB = {"id": "job_1", "status": "queued", "name": "n"}
_COUNTS = {"accepted": 1, "duplicates": 0, "rejected": 0}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have waited for."""
    slept: list[float] = []

    async def sleep(_: object, seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(BlockingTransport, "sleep", sleep)
    monkeypatch.setattr(AsyncioTransport, "sleep", sleep)
    return slept


class Failing:
    """A server that fails in the given ways, one for each request, and then answers."""

    def __init__(self, *failures: httpx.Response | Exception, answer: Any = None) -> None:
        self.requests: list[httpx.Request] = []
        self._failures = list(failures)
        self._answer = _JOB if answer is None else answer

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if not self._failures:
            return httpx.Response(200, json=self._answer)
        failure = self._failures.pop(0)
        if isinstance(failure, Exception):
            raise failure
        return copy(failure)


def copy(response: httpx.Response) -> httpx.Response:
    """A response can be sent once."""
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def refusal(status: int, code: str = "busy", **headers: str) -> httpx.Response:
    error = {"type": "t", "code": code, "message": "there is much to do", "param": None}
    return httpx.Response(
        status, json={"error": error}, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


_SAFE: dict[str, Callable[[Any], object]] = {
    "GET": lambda client: client.job("job_1"),
    "a new job": lambda client: client.create_job({"corpus": "c", "name": "n"}),
    "training": lambda client: client.train("c", name="n"),
    "DELETE of a version": lambda client: client.delete_model("fake@1"),
    "DELETE of a corpus": lambda client: client.delete_corpus("corpus_1"),
    "DELETE of a version of a corpus": lambda client: client.delete_corpus("c@2"),
    "DELETE of a calibration": lambda client: client.delete_calibration("fake", "c"),
    "DELETE of a suppression": lambda client: client.delete_suppression("fake", "s"),
    "PATCH of a corpus": lambda client: client.set_corpus_kind("c", "records"),
    "an alias": lambda client: client.set_alias("fake", "champion", 2),
    "events": lambda client: client.add_events([{"type": "shown", "suggestion_id": "s", "model": "fake@1"}]),
    "ingested lines": lambda client: client.ingest("fake", ["a"]),
}
_UNSAFE: dict[str, Callable[[Any], object]] = {
    "an upload": lambda client: client.add_corpus("text"),
    "a completion": lambda client: client.complete("fake", "a"),
    "scores": lambda client: client.score("fake", ["a"]),
    "a calibration": lambda client: client.calibrate("fake", ["a"]),
    "a cancellation": lambda client: client.cancel_job("job_1"),
    "a new name": lambda client: client.rename_model("fake@1", "other"),
    "an import": lambda client: client.import_model(b"tar"),
    "DELETE of the newest version": lambda client: client.delete_model("fake"),
    "DELETE of the newest version of a corpus": lambda client: client.delete_corpus("c"),
    "DELETE of a target": lambda client: client.delete_notification_target("t"),
    "DELETE of an alias": lambda client: client.delete_alias("fake", "champion"),
    "a rollback": lambda client: client.roll_back_alias("fake", "champion"),
    "a probe": lambda client: client.ready(),
}
_PASSING = (refusal(503), refusal(429), httpx.ConnectError("nobody"), httpx.ReadError("it broke"))


@pytest.mark.parametrize("call", _SAFE.values(), ids=_SAFE)
@pytest.mark.parametrize("failure", _PASSING, ids=["503", "429", "no connection", "broken connection"])
def test_what_is_safe_is_sent_again(
    call: Callable[[Any], object], failure: Any, kind: str, delays: list[float]
) -> None:
    server = Failing(failure, failure, answer=_JOB | _COUNTS)
    with connected(kind, transport=server.transport()) as client:
        call(client)
    assert len(server.requests) == 3
    assert len({request.headers.get("Idempotency-Key") for request in server.requests}) == 1
    assert len({(request.method, request.url, request.content) for request in server.requests}) == 1
    assert delays == [0.25, 0.5]


@pytest.mark.parametrize("call", _UNSAFE.values(), ids=_UNSAFE)
@pytest.mark.parametrize(
    "failure", [refusal(503), httpx.ReadError("it broke")], ids=["503", "broken connection"]
)
def test_what_may_be_done_twice_is_sent_once(
    call: Callable[[Any], object], failure: Any, kind: str, delays: list[float]
) -> None:
    server = Failing(failure)
    with connected(kind, transport=server.transport()) as client, pytest.raises(NextcharError) as caught:
        call(client)
    assert caught.value.is_retryable
    assert (len(server.requests), delays) == (1, [])


def test_retries_are_bounded_and_the_last_error_is_raised(kind: str, delays: list[float]) -> None:
    server = Failing(*[refusal(503)] * 9)
    with connected(kind, transport=server.transport(), max_retries=4) as client, pytest.raises(Unavailable):
        client.job("job_1")
    assert (len(server.requests), delays) == (5, [0.25, 0.5, 1, 2])


@pytest.mark.parametrize("failure", [refusal(404), refusal(409), refusal(500), httpx.ReadTimeout("slow")])
def test_what_will_not_pass_is_not_sent_again(failure: Any, kind: str, delays: list[float]) -> None:
    server = Failing(failure)
    with connected(kind, transport=server.transport()) as client, pytest.raises(NextcharError):
        client.job("job_1")
    assert len(server.requests) == 1


def test_retry_after_is_honored_unless_it_is_long(kind: str, delays: list[float]) -> None:
    soon = formatdate(time.time() + 10, usegmt=True)
    server = Failing(refusal(429, Retry_After="7"), refusal(503, Retry_After=soon))
    with connected(kind, transport=server.transport()) as client:
        client.job("job_1")
    assert delays[0] == 7 and 8 < delays[1] <= 10
    server = Failing(refusal(429, Retry_After="3600"))
    with connected(kind, transport=server.transport()) as client, pytest.raises(RateLimited) as caught:
        client.job("job_1")
    assert (caught.value.retry_after_s, len(server.requests)) == (3600, 1)


def test_a_list_goes_on_where_it_was(kind: str, delays: list[float]) -> None:
    pages = [{"data": [{"id": "a"}], "has_more": True}, {"data": [{"id": "b"}], "has_more": False}]
    answers: list[Any] = [pages[0], httpx.ReadError("it broke"), pages[1]]

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, json=answer)

    with connected(kind, transport=httpx.MockTransport(handle)) as client:
        assert [model["id"] for model in client.models()] == ["a", "b"]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "InvalidRequest"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "NotFound"),
        (409, "Conflict"),
        (413, "InvalidRequest"),
        (415, "InvalidRequest"),
        (422, "InvalidRequest"),
        (429, "RateLimited"),
        (500, "ServerError"),
        (503, "Unavailable"),
        (507, "Unavailable"),
    ],
)
def test_each_kind_of_error_is_an_exception(status: int, name: str, kind: str, delays: list[float]) -> None:
    error = {"type": "t", "code": "the_code", "message": "a sentence", "param": "network.units"}
    answer = httpx.Response(status, json={"error": error}, headers={"X-Request-Id": "r1"})
    transport = httpx.MockTransport(lambda _: copy(answer))
    with (
        connected(kind, transport=transport) as client,
        pytest.raises(ServerError, match="a sentence") as caught,
    ):
        client.job("job_1")
    found = caught.value
    assert type(found) is getattr(nextchar, name)
    assert (found.status, found.code, found.param, found.request_id) == (
        status,
        "the_code",
        "network.units",
        "r1",
    )


_LONG: dict[str, Callable[[Any], object]] = {
    "an upload": lambda client: client.add_corpus("text"),
    "an import": lambda client: client.import_model(b"tar"),
    "scores": lambda client: client.score("fake", ["a"]),
    "a calibration": lambda client: client.calibrate("fake", ["a"]),
    "an evaluation": lambda client: client.evaluate("fake", ["a"], [True]),
}


@pytest.mark.parametrize("call", _LONG.values(), ids=_LONG)
def test_calls_that_work_for_minutes_have_half_an_hour_to_respond(
    call: Callable[[Any], object], kind: str
) -> None:
    server = Failing()
    with connected(kind, transport=server.transport()) as client:
        call(client)
    assert server.requests[0].extensions["timeout"]["read"] == 1800


def test_a_timeout_is_an_unreachable_server(kind: str) -> None:
    transport = Failing(httpx.ReadTimeout("slow")).transport()
    with connected(kind, transport=transport) as client, pytest.raises(ServerUnreachable) as caught:
        client.complete("fake", "a")
    assert isinstance(caught.value, Timeout)


def test_what_json_cannot_say_is_refused_here(kind: str) -> None:
    transport = Failing().transport()
    with connected(kind, transport=transport) as client:
        for prompt in (float("nan"), object(), "\ud800"):
            with pytest.raises(NextcharError):
                client.complete("fake", prompt)


def test_models_go_out_and_in_as_archives(kind: str) -> None:
    server = Failing(httpx.Response(200, content=b"tar" * 100_000), answer={"id": "other@1"})
    with connected(kind, transport=server.transport()) as client:
        archive = b"".join(client.export_model("fake@1"))
        assert client.import_model(archive, name="other")["id"] == "other@1"
    exported, imported = server.requests
    assert (exported.method, exported.url.path) == ("GET", "/v1/models/fake@1/export")
    assert (imported.url.path, dict(imported.url.params)) == ("/v1/models/import", {"name": "other"})
    assert (imported.content, imported.headers["Content-Type"]) == (archive, "application/x-tar")
