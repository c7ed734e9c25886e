"""Acceptance is shown from the command line, against the API itself."""

from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import serving
from tests.clients.python.conftest import Run
from tests.models.runtime.networks import saved_model


def test_acceptance_is_shown_by_version_client_and_day(
    run: Run, tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)
    with serving(settings) as service:
        monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
        publish(service.models), publish(service.models)
        assert "no suggestion of fake was shown" in run("acceptance", "fake").err
        for version, kind in ((1, "shown"), (2, "accepted"), (2, "shown")):
            event = {
                "id": kind,
                "type": kind,
                "suggestion_id": f"{kind} {version}",
                "model": f"fake@{version}",
            }
            more = {"id": f"{kind} {version}", "latency_ms": 4.0, "client": f"js/{version}", "characters": 7}
            assert service.http.post("/v1/events", json=event | more).status_code == 202
        lines = [line.split() for line in run("acceptance", "fake").out.splitlines()]
        assert lines[-3:] == [
            ["fake@1", "1", "0", "0.0%", "–", "0", "4.0", "5.0"],
            ["fake@2", "2", "1", "50.0%", "0.0%", "7", "4.0", "5.0"],
            ["total", "3", "1", "33.3%", "0.0%", "7", "4.0", "5.0"],
        ]
        assert "js/2" in run("acceptance", "fake@2", "--by", "client").out
        assert "fake@1" not in run("acceptance", "fake@2", "--by", "day").out
        assert run("acceptance", "fake", "--json").json["total"]["shown"] == 3


def test_counts_are_shown_added_and_deleted(
    run: Run, tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0, min_free_bytes=0)
    with serving(settings) as service:
        monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
        model = saved_model(name="cities", kind="records", lines={"london": 1})
        service.models.publish(model.card, {name: model.file(name) for name in model.card.files})
        assert "no counts were added" in run("counts", "cities").err
        file = tmp_path / "counts.tsv"
        file.write_text("London\t1200\nOslo\t3\t1795563600\nRome\n")
        assert (
            "visits: 3 counts"
            in run("counts", "cities", str(file), "--source", "visits", "--half-life-days", "0").out
        )
        lines = [line.split() for line in run("counts", "cities").out.splitlines()]
        assert lines[-3:] == [["London", "1,200.0"], ["Oslo", "3.0"], ["Rome", "1.0"]]
        assert run("counts", "cities", "--json").json["sources"][0]["half_life_days"] is None
        file.write_text("London\tmany\n")
        assert "line 1 has 'many'" in run("counts", "cities", str(file)).err
        assert "deleted 3 counts" in run("counts", "cities", "--delete").out
