import asyncio
import json
import re
import threading
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.acceptance import routes as acceptance
from nextchar.app.completions import routes as completions
from nextchar.app.http import bodies
from nextchar.app.http.bodies import (
    LARGE_BYTES,
    DocumentRequest,
    DocumentRoute,
    FastPaths,
    has_fast_path,
    parsed_bytes,
)
from nextchar.app.http.errors import add_error_handlers
from nextchar.app.http.incoming_body import BodyMemory, IncomingBody
from nextchar.app.http.limits import LARGE_BODIES
from nextchar.app.http.services import ServicesDep
from nextchar.app.http.threads import CLIENT, Client, Pools
from nextchar.app.main import create_app
from nextchar.app.openai import completions as openai_completions
from nextchar.app.suggestions import routes as suggestions
from tests.app.service import Service, error_of

JSON = {"content-type": "application/json"}
COMPLETE = "/v1/models/fake/complete"


class Asked(BaseModel):
    text: str


class Answered(BaseModel):
    text: str


async def plain(services: ServicesDep, model: str, body: Asked) -> Answered:
    return Answered(text=body.text)


async def checked(_: Request) -> None:
    raise HTTPException(401)


async def reads_a_header(services: ServicesDep, body: Asked, x_key: Annotated[str, Header()]) -> Answered:
    return Answered(text=body.text + x_key)


async def reads_the_query(services: ServicesDep, body: Asked, page: int) -> Answered:
    return Answered(text=body.text * page)


async def wants_a_number(services: ServicesDep, number: int, body: Asked) -> Answered:
    return Answered(text=body.text * number)


async def answers_a_dictionary(services: ServicesDep, body: Asked) -> dict[str, Any]:
    return {"text": body.text}


def blocks(services: ServicesDep, body: Asked) -> Answered:
    return Answered(text=body.text)


def route_of(path: str, function: Any, **options: Any) -> APIRoute:
    router = APIRouter(route_class=DocumentRoute, **options)
    router.post(path)(function)
    (route,) = router.routes
    assert isinstance(route, APIRoute)
    return route


def test_only_routes_that_need_nothing_else_of_fastapi_have_a_fast_path() -> None:
    assert has_fast_path(route_of("/{model}", plain))
    assert not has_fast_path(route_of("/{model}", plain, dependencies=[Depends(checked)]))
    for function in (reads_a_header, reads_the_query, answers_a_dictionary, blocks):
        assert not has_fast_path(route_of("/", function)), function
    assert not has_fast_path(route_of("/{number}", wants_a_number))


@pytest.mark.parametrize("module", [completions, openai_completions, suggestions, acceptance])
def test_calls_at_every_keystroke_have_a_fast_path(module: ModuleType) -> None:
    keystrokes = {
        "/v1/models/{model}/complete",
        "/v1/models/{model}/next",
        "/v1/models/{model}/suggest",
        "/v1/completions",
        "/v1/events",
    }
    routes = [route for route in module.router.routes if route.path in keystrokes]
    assert routes and all(has_fast_path(route) for route in routes)


def test_document_of_just_the_largest_size_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parse(content: bytes) -> Any:
        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        return await DocumentRequest({"type": "http", "headers": []}, receive).json()

    monkeypatch.setattr(bodies, "MAX_DOCUMENT_BYTES", 5)
    assert asyncio.run(parse(b'"abc"')) == "abc"
    with pytest.raises(StarletteHTTPException) as error:
        asyncio.run(parse(b'"abcd"'))
    assert error.value.status_code == 413


@pytest.fixture
def http(service: Service) -> httpx.Client:
    from tests.app.fakes import publish

    publish(service.models)
    return service.http


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_fast_path_and_fastapi_give_the_same_answer(http: httpx.Client, kind: str) -> None:
    long = "a" * LARGE_BYTES  # too long for the fast path
    answers = []
    for prompt in ("abc", long):
        content = json.dumps({"prompt": prompt, "max_characters": 3})
        answer = http.post(COMPLETE, content=content, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        answers.append(answer.json()["completions"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "invalid_field"),
        (b'{"prompt": 3}', "application/json", 422, "invalid_field"),
        (b'{"prompt": "a", "bad": 1}', "application/json", 422, "unknown_field"),
        (b'{"prompt": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b"", "application/json", 422, "invalid_field"),
    ],
)
def test_errors_of_invalid_bodies_are_those_of_other_routes(
    http: httpx.Client, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = http.post(COMPLETE, content=content, headers={"content-type": kind})
    assert error_of(answer, status)["code"] == code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETE, {f"field{i}": 1 for i in range(1001)}),
        ("/v1/models/fake/score", {f"field{i}": 1 for i in range(50_000)}),
        ("/v1/models/fake/calibrate", {"lines": [{}] * 90_000}),
        ("/detokenize", {"tokens": [""] * 100_000}),
        ("/v1/jobs", {f"field{i}": 1 for i in range(50_000)}),
        ("/v1/jobs/job_1/cancel", {f"field{i}": 1 for i in range(50_000)}),
        ("/v1/notification_targets", {f"field{i}": 1 for i in range(50_000)}),
    ],
)
def test_very_many_errors_are_counted_and_not_listed(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    error = error_of(service.http.post(path, json=body), 422)
    assert re.search(r"has [\d,]+ errors", error["message"])


@pytest.mark.parametrize(
    "path",
    [COMPLETE, "/v1/models/fake/score", "/v1/completions", "/infill", "/tokenize", "/v1/corpora/import"],
)
def test_large_bodies_with_very_many_values_are_refused_before_they_are_parsed(
    service: Service, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b'{"prompt": [%b[]]}' % (b"[], " * 100_000)
    monkeypatch.setattr(bodies, "json", None)
    error = error_of(service.http.post(path, content=content, headers=JSON), 413)
    assert error["code"] == "too_many_values"


def test_prompt_of_very_many_brackets_is_completed(http: httpx.Client) -> None:
    answer = http.post(COMPLETE, json={"prompt": "[{:," * 200_000, "max_characters": 3})
    assert answer.status_code == 200, answer.text


def test_large_bodies_are_parsed_one_at_a_time_and_counted_until_they_are_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = b"[" + b"12345," * LARGE_BYTES + b"1]"
    memory = BodyMemory(limit_bytes=60 * LARGE_BYTES + 2 * parsed_bytes(content))
    pools = Pools()
    at_once: list[int] = []
    loads = json.loads

    def record(content: bytes) -> Any:
        at_once.append(pools.limiter(LARGE_BODIES).borrowed_tokens)
        return loads(content)

    async def parse() -> tuple[IncomingBody, int]:
        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        body = IncomingBody(receive, memory=memory, timeout_s=60, max_bytes=len(content))
        state = {"incoming_body": body, "services": SimpleNamespace(pools=pools)}
        request = DocumentRequest({"type": "http", "headers": [], "state": state}, body.receive)
        try:
            return body, len(await request.json())
        except StarletteHTTPException as error:
            return body, error.status_code

    async def run() -> None:
        parsed = await asyncio.gather(*(parse() for _ in range(3)))
        assert sorted(status for _, status in parsed) == [503, LARGE_BYTES + 1, LARGE_BYTES + 1]
        assert at_once == [1, 1]
        for body, _ in parsed:
            body.release()
        assert memory.held_bytes == 0

    monkeypatch.setattr(json, "loads", record)
    asyncio.run(run())


def test_every_route_with_a_json_body_counts_its_errors(service: Service) -> None:
    routes = [context.route for context in iter_route_contexts(create_app(service.settings).routes)]
    with_body = [one for one in routes if isinstance(one, APIRoute) and one.dependant.body_params]
    assert len(with_body) > 20
    for route in with_body:
        assert isinstance(route, DocumentRoute) and len(route.dependant.body_params) == 1, route.path


@pytest.mark.parametrize("is_optional", [False, True])
def test_body_that_is_not_short_is_validated_once(is_optional: bool) -> None:
    validated: list[str] = []

    class Counted(BaseModel):
        text: str
        number: int = 0

        @field_validator("text")
        @classmethod
        def count(cls, text: str) -> str:
            validated.append(text)
            return text

    def sync(body: Counted) -> Answered:
        return Answered(text=body.text[:1])

    def optional(body: Counted | None = None) -> Answered:
        return Answered(text=body.text[:1] if body else "")

    router = APIRouter(route_class=DocumentRoute)
    router.post("/")(optional if is_optional else sync)
    app = FastAPI()
    app.include_router(router)
    add_error_handlers(app)
    with TestClient(app) as http:
        text = "a" * 2000
        assert http.post("/", json={"text": text}).json() == {"text": "a"}
        assert validated == [text]
        for content in (b'{"text": "%b", "number": "x"}' % text.encode(), b'{"text": 1, "number": "x"}'):
            long, short = (http.post("/", content=c, headers=JSON) for c in (content + b" " * 2000, content))
            assert long.status_code == 422 and long.json() == short.json()
        assert http.post("/", content=b"[" * 5000, headers=JSON).status_code == 400
        if is_optional:
            assert http.post("/").json() == {"text": ""}


def test_only_large_documents_are_parsed_in_a_worker_thread_and_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed_in: list[bool] = []
    loads = json.loads

    def record(content: bytes) -> Any:
        parsed_in.append(threading.current_thread() is threading.main_thread())
        return loads(content)

    async def parse(content: bytes) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        services = SimpleNamespace(pools=Pools())
        state = {"incoming_body": SimpleNamespace(expand=int), "services": services}
        request = DocumentRequest({"type": "http", "headers": [], "state": state}, receive)
        for _ in range(2):
            assert await request.json() == loads(content)

    monkeypatch.setattr(json, "loads", record)
    monkeypatch.setattr(bodies, "LARGE_BYTES", 5)
    for content, is_in_main_thread in ((b'"abc"', True), (b'"abcd"', False)):
        parsed_in.clear()
        asyncio.run(parse(content))
        assert parsed_in == [is_in_main_thread]


def test_clients_take_turns_with_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 5)
    parsed: list[str] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b'"abcdef"', "more_body": False}

    async def run() -> None:
        state = {"services": SimpleNamespace(pools=Pools())}
        calls = []
        for client, count in (("flood", 20), ("modest", 2)):
            CLIENT.set(Client(client))
            for _ in range(count):
                request = DocumentRequest({"type": "http", "headers": [], "state": state}, receive)
                calls.append(asyncio.create_task(request.run(parsed.append, client)))
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert len(parsed) == 22 and parsed[:4].count("modest") == 2


class Named(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    text: str = Field(alias="textField")


def test_the_fast_path_validates_once_and_answers_as_fastapi_does() -> None:
    validated: list[str] = []

    class Counted(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def count(cls, text: str) -> str:
            validated.append(text)
            return text

    async def fast(body: Counted) -> Named:
        return Named(text=body.text)

    async def slow(body: Counted, request: Request, page: int = 1) -> Named:
        return Named(text=body.text)

    router = APIRouter(route_class=DocumentRoute)
    router.post("/fast")(fast)
    router.post("/slow")(slow)
    assert [has_fast_path(route) for route in router.routes] == [True, False]  # type: ignore[arg-type]
    app = FastAPI()
    app.include_router(router)
    searched: list[str] = []
    find = app.router.middleware_stack

    async def find_route(scope: Scope, receive: Receive, send: Send) -> None:
        searched.append(scope["type"])
        await find(scope, receive, send)

    app.router.middleware_stack = FastPaths(find_route, app.routes)
    add_error_handlers(app)
    with TestClient(app) as http:
        for text in ("a", "a" * 2000):
            validated.clear()
            searched.clear()
            answers = [http.post(path, json={"text": text}) for path in ("/fast", "/slow")]
            assert validated == [text] * 2
            assert searched == ["http"]  # for the slow one
            assert answers[0].json() == answers[1].json() == {"textField": text}
            assert answers[0].headers["content-type"] == answers[1].headers["content-type"]
        refused = [http.post(path, json={"words": "a"}) for path in ("/fast", "/slow")]
        assert [answer.status_code for answer in refused] == [422, 422]
        assert refused[0].json() == refused[1].json()
