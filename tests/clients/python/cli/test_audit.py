"""`nextchar audit`, against the API itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.settings import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run


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
