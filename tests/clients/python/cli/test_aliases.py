"""Aliases are moved, listed and rolled back from the command line, against the API itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        publish(running.models)
        publish(running.models)
        yield running


def test_an_alias_is_moved_listed_rolled_back_and_deleted(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
    assert "has no alias; make one with" in run("models", "aliases", "fake").err
    assert run("models", "alias", "fake@champion", "1").out == "fake@champion is fake@1\n"
    options = ("--max-bits", "2.5", "--max-regression", "0.1")
    assert run("models", "alias", "fake@champion", "2", *options).out == "fake@champion is fake@2\n"
    assert "champion" in run("models").out
    assert "champion" in run("models", "show", "fake@2").out
    refused = run("models", "alias", "fake@champion", "1", "--calibrated")
    assert refused.status == 1 and "no calibration" in refused.err
    assert run("models", "alias", "fake@champion", "2", "--acceptance-over", "9").status == 0
    shared = run("models", "alias", "fake@champion", "2", "--share", "1", "0.25")
    assert shared.out == "fake@champion is fake@2, and fake@1 for 25% of clients\n"
    assert run("models", "rollback", "fake@champion").out == "fake@champion is fake@2\n"
    assert "champion" in run("models", "rm", "fake@champion").err
    assert run("models", "rollback", "fake@champion").out == "fake@champion is fake@1\n"
    moves = run("models", "aliases", "fake@champion", "--json").json["data"]
    assert [move["action"] for move in moves] == ["rollback", "rollback", "set", "set", "set"]
    assert run("models", "unalias", "fake@champion").out == "deleted fake@champion\n"
    for reference in ("fake", "@champion", "fake@"):
        refused = run("models", "alias", reference, "1")
        assert refused.status == 2 and "is not an alias such as" in refused.err
