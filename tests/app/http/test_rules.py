"""The rule of a call is that of the route that serves it."""

import itertools
import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Match

from nextchar.app.http.rules import OPEN, SMALL_JSON, UNKNOWN, Rules, needs, needs_no_key
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(ApiSettings())


@pytest.fixture(scope="module")
def rules(app: FastAPI) -> Rules:
    return Rules(app.routes)


@pytest.mark.parametrize(
    ("calls", "scopes"),
    [
        (
            "GET /, GET /docs, GET /healthz, GET /console/app.js, GET /console/log/x.js, GET /openapi.json",
            None,
        ),
        ("GET /metrics, GET /v1/architectures", "read"),
        ("POST /infill, POST /tokenize/, POST /v1/completions, GET /v1/batches/a", "complete"),
        ("POST /v1/batches", "complete"),
        ("POST /v1/events", "events"),
        ("GET /v1/models/m/acceptance", "read"),
        ("GET /v1/models/m/counts", "read"),
        ("PUT /v1/models/m/counts, DELETE /v1/models/m/counts", "train"),
        ("GET /v1/models/m/kept_texts, DELETE /v1/models/m/kept_texts", "train"),
        ("POST /v1/logs, POST /v1/models/m/ingest", "ingest"),
        ("GET /props, GET /tokenizer_info, GET /v1/models, GET /v1/models/m", "complete read"),
        ("GET /v1/models/m/props, HEAD /props", "complete read"),
        ("GET /v1/models/m/report, GET /v1/models/m/files/a, GET /v1/models/m/aliases", "read"),
        ("GET /v1/jobs, GET /v1/corpora/c/text, GET /v1/files, GET /v1/fine_tuning/jobs/j", "read train"),
        ("POST /v1/jobs, DELETE /v1/corpora/c, POST /v1/files, POST /v1/jobs/j/cancel", "train"),
        ("GET /v1/models/m/alerts, GET /v1/models/m/suppressions, GET /v1/models/m/alerts/a", "read train"),
        ("POST /v1/models/m/alerts/a/label, DELETE /v1/models/m/suppressions/s", "train"),
        ("DELETE /v1/models/m/calibrations/c, POST /v1/models/m/calibrate", "train"),
        ("GET /v1/models/m/ingest", "read"),
        ("POST /v1/models/m/complete, POST /v1/models/m/v1/completions, POST /v1/models/m/score", "complete"),
        ("DELETE /v1/models/m/streams/s, DELETE /v1/models/m/streams/of/s", "complete"),
        ("DELETE /v1/models/m, PATCH /v1/models/m, POST /v1/models/import", "admin"),
        ("DELETE /v1/models/m/streams, GET /v1, GET /v1/", "admin"),
        ("PUT /v1/models/m/aliases/a, POST /v1/models/m/aliases/a/rollback", "admin"),
        ("GET /v1/audit, GET /v1/notification_targets, POST /v1/models/m/nothing, GET /nothing", "admin"),
        ("GET /consoles, GET /v1/audit\n, POST /infill\n", "admin"),
    ],
)
def test_the_scopes_of_which_a_call_needs_one(rules: Rules, calls: str, scopes: str | None) -> None:
    for call in calls.split(", "):
        method, path = call.split(" ")
        assert rules.find(method, path).scopes == (set(scopes.split()) if scopes else None), call


@pytest.mark.parametrize(
    ("call", "model"),
    [
        ("GET /v1/models", None),
        ("GET /v1/models/m@2/", "m@2"),
        ("DELETE /v1/models/m", "m"),
        ("POST /v1/models/m/score", "m"),
        ("POST /v1/models/m/alerts/a/label", "m"),
        ("POST /v1/models/import", None),
        ("GET /v1/jobs/m/events", None),
        ("GET /models/m/score", None),
    ],
)
def test_the_model_that_a_path_names(rules: Rules, call: str, model: str | None) -> None:
    method, path = call.split()
    at = rules.find(method, path).model_at
    assert (path.split("/")[1:][at] if at is not None else None) == model


def test_every_route_declares_what_it_needs_and_only_health_checks_and_pages_nothing(app: FastAPI) -> None:
    contexts = list(iter_route_contexts(app.routes))
    rules = Rules(app.routes)
    calls = {(method, one.path or "") for one in contexts for method in one.methods or ("GET",)}
    assert len(calls) > 90
    for one in contexts:
        mounted = getattr(one, "app", None)
        declared = getattr(one.endpoint, "nextchar_rule", None) or getattr(mounted, "rule", None)
        assert declared, f"{one.path} declares no scope: write @needs below its route"
    is_open = {path for method, path in calls if rules.find(method, path).scopes is None}
    pages = {"/", "/docs", "/console", "/clients/js", "/openapi.json"}
    assert {path for path in is_open - pages if not path.startswith("/console/")} == {
        "/healthz", "/readyz", "/health"
    }  # fmt: skip


def test_every_model_in_a_path_is_checked(app: FastAPI) -> None:
    rules = Rules(app.routes)
    for one in iter_route_contexts(app.routes):
        path = one.path or ""
        if path.startswith("/v1/models/{"):
            for method in one.methods or ():
                assert rules.find(method, path).model_at == 2, path


def test_the_rule_is_that_of_the_route_that_serves_the_call(app: FastAPI) -> None:
    """Also where several routes match a path: the application takes the first, whatever is literal in it."""
    contexts = list(iter_route_contexts(app.routes))
    rules = Rules(app.routes)
    words = {part for one in contexts for part in (one.path or "").split("/") if part and "{" not in part}
    templates = {one.path or "" for one in contexts if one.methods}
    paths = {re.sub(r"\{\w+(:path)?\}", "x", path) for path in templates}
    for path, word in itertools.product(templates, sorted(words)):
        paths.add(re.sub(r"\{\w+(:path)?\}", word, path))
    served = 0
    for path, method in itertools.product(sorted(paths), ("GET", "POST", "PUT", "PATCH", "DELETE")):
        scope: dict[str, Any] = {"type": "http", "path": path, "method": method, "root_path": ""}
        for one in contexts:
            if one.methods and one.matches(scope)[0] is Match.FULL:
                declared = one.endpoint.nextchar_rule  # type: ignore[union-attr]
                assert rules.find(method, path).scopes == declared.scopes, (method, path, one.path)
                served += 1
                break
    assert served > 1_000


def test_a_path_without_the_method_needs_a_scope_of_its_others() -> None:
    app = FastAPI(openapi_url=None)

    @app.post("/a/{b}")
    @needs("train", body=SMALL_JSON)
    def one() -> None: ...

    @app.get("/a/{b}")
    @needs("read")
    def two() -> None: ...

    @app.get("/open")
    @needs_no_key
    def three() -> None: ...

    @app.get("/forgotten")
    def four() -> None: ...

    rules = Rules(app.routes)
    assert rules.find("POST", "/a/x").body is SMALL_JSON
    assert rules.find("PUT", "/a/x").scopes == {"train", "read"}
    assert rules.find("POST", "/open").scopes is OPEN.scopes
    assert rules.find("GET", "/forgotten").scopes == UNKNOWN.scopes == {"admin"}
    assert rules.find("GET", "/a/") is UNKNOWN
