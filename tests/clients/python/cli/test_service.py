"""The audit trail, and whether the service is ready."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        yield running


def test_entries_are_listed_filtered_and_limited(
    service: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
    assert "there is no such entry" in run("audit").err
    publish(service.models)
    run("models", "rename", "fake", "other")
    corpus = service.upload()
    shown = run("audit").out.splitlines()
    assert len(shown) == 2 and f"/v1/corpora/{corpus}" in shown[0]
    assert shown[1].split("\t")[1:] == [
        "–", "127.0.0.1", "rename_model", "/v1/models/fake@1 -> /v1/models/other@1"
    ]  # fmt: skip
    assert run("audit", "--number", "1").out.splitlines() == shown[:1]
    assert run("audit", "--action", "rename_model").out.splitlines() == shown[1:]
    assert run("audit", "--about", "other@1", "--json").json["data"][0]["to"] == "/v1/models/other@1"
    assert "there is no such entry" in run("audit", "--key", "ann").err
    assert "there is no such entry" in run("audit", "--until", "2001-01-01").err
    assert run("audit", "--since", "2001-01-01").out.splitlines() == shown
    assert "is not a date" in run("audit", "--since", "yesterday").err


def test_status_reports_what_is_down(run: Run, server: FakeServer) -> None:
    server.is_ready = False
    outcome = run("status")
    assert (outcome.status, outcome.err) == (
        1,
        "nextchar: the service runs but is not ready: no response from its redis\n",
    )


def test_status_explains_what_does_not_work(run: Run, server: FakeServer) -> None:
    server.degraded = [{"part": "worker", "problem": "kernels are being compiled", "effect": "jobs wait"}]
    assert run("status").out.splitlines()[:2] == [
        f"{server.url} is degraded",
        "worker: kernels are being compiled; jobs wait",
    ]


def test_open_opens_the_console(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: not opened.append(url))
    assert run("open").out == f"{server.url}/\n"
    assert run("open", "--json").json == {"url": f"{server.url}/", "opened": True}
    assert opened == [f"{server.url}/"] * 2
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    assert "no browser here" in run("open").err
