"""Readiness of the service, and its console."""

import pytest

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


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
