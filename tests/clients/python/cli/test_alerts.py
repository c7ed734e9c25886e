"""`nextchar alerts` against the API itself, with an engine that finds `→` surprising."""

import csv
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run

LINES = "ab abab\nab →→→b 17\nab →→→b 18\nab →→ 9\n"


@pytest.fixture
def alerting(
    tmp_path: Path, clean_redis_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """The command, against a service with a model that has two alerts."""
    with serving(ApiSettings(data_dir=tmp_path / "data", redis_url=clean_redis_url, port=0)) as service:
        monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
        monkeypatch.chdir(tmp_path)
        prepare(service)
        scored = run("score", "--model", "fake", "--alerts", "--source", "web-1", stdin=LINES)
        assert scored.status == 0, scored.err
        yield run


def prepare(service: Service) -> None:
    publish(service.models)
    normal = ["ab" * (1 + i % 9) for i in range(120)]
    service.http.post("/v1/models/fake/calibrate", json={"lines": normal})


def first(run: Run) -> str:
    """Return the beginning of the id of the alert with two lines."""
    rows = [line.split("\t") for line in run("alerts", "list", "fake").out.splitlines()]
    [row] = [row for row in rows if row[3] == "2"]
    return row[0]


def test_alerts_are_listed_for_one_model_and_for_all(alerting: Run) -> None:
    rows = [line.split("\t") for line in alerting("alerts", "list", "fake").out.splitlines()]
    assert [row[-1] for row in sorted(rows, key=lambda row: row[3])] == ["ab →→ <*>", "ab →→→b <*>"]
    assert {row[2] for row in rows} == {"open"}
    everywhere = [line.split("\t") for line in alerting("alerts").out.splitlines()]
    assert {row[1] for row in everywhere} == {"fake"}
    assert len(everywhere) == len(alerting("alerts", "--json").json["data"]) == 2
    none = alerting("alerts", "list", "fake", "--label", "incident")
    assert (none.out, "no such alert" in none.err) == ("", True)


def test_an_alert_is_shown_with_its_lines(alerting: Run) -> None:
    shown = alerting("alerts", "show", "fake", first(alerting)).out
    pattern = r"severity\tcritical, 1 in [1-9][0,]{5,} normal lines, estimated\n"
    assert re.search(pattern, shown), shown
    assert "template\tab →→→b <*>\n" in shown and "sources\tweb-1\n" in shown
    assert shown.endswith("ab →→→b 17\nab →→→b 18\n")
    assert alerting("alerts", "show", "fake", first(alerting), "--json").json["count"] == 2


def test_alerts_are_acknowledged_and_labeled(alerting: Run) -> None:
    alert = first(alerting)
    assert alerting("alerts", "ack", "fake", alert).out.startswith("acknowledged alert_")
    assert len(alerting("alerts").out.splitlines()) == 1
    shown = alerting("alerts", "label", "fake", alert, "normal", "--value", "17", "--preview")
    assert "covers 17: 1 line" in shown.err and "stays 18: 1 line" in shown.err
    assert alerting("score", "--model", "fake", stdin="ab →→→b 17\n").status == 0, "it was only shown"
    assert alerting("alerts", "label", "fake", alert, "normal", "--value", "17").out.endswith(" normal\n")
    assert alerting("score", "--model", "fake", stdin="ab →→→b 18\n").status == 0, "the others are not"
    made = alerting("alerts", "label", "fake", alert, "normal", "--all-values")
    assert "undo: nextchar alerts label" in made.err
    assert alerting("score", "--model", "fake", stdin="ab →→→b 19\n").status == 1, "it is normal now"
    whole = alerting("alerts", "show", "fake", alert, "--json").json["id"]
    assert alerting("alerts", "label", "fake", whole, "none", "--json").json["label"] is None
    assert alerting("score", "--model", "fake", stdin="ab →→→b 19\n").status == 0


def test_alerts_are_suppressed_by_id_and_by_pattern(alerting: Run) -> None:
    made = alerting(
        "alerts", "suppress", "fake", first(alerting), "--for", "2d", "--all-values", "--json"
    ).json
    assert made["until"] == pytest.approx(time.time() + 2 * 86_400, abs=60)
    assert len(alerting("alerts", "list", "fake", "--state", "suppressed").out.splitlines()) == 1
    everything = alerting("alerts", "suppress", "fake", "--template", "*", "--until", "2999-12-31")
    assert "every alert of fake" in everything.err
    assert alerting("alerts").err.strip() == "no alert is open"
    listed = alerting("alerts", "suppress", "fake", "--list", "--json").json["data"]
    assert listed[0]["until"] == datetime(2999, 12, 31).astimezone().timestamp()
    for suppression in listed:
        assert alerting("alerts", "suppress", "fake", "--delete", suppression["id"]).status == 0
    assert len(alerting("alerts").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc",), "--until DATE or --for DURATION"),
        (("abc", "--for", "3 days"), "not a duration"),
        (("abc", "--until", "soon"), "not a date"),
        (("--for", "3d"), "give an alert, or --template"),
        (("abc", "--template", "*", "--for", "3d"), "give an alert, or --template"),
    ],
)
def test_wrong_usage_is_explained(alerting: Run, arguments: tuple[str, ...], message: str) -> None:
    outcome = alerting("alerts", "suppress", "fake", *arguments)
    assert outcome.status == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())


def test_an_unknown_or_ambiguous_id_is_explained(alerting: Run) -> None:
    assert "no alert whose id begins with 'zz'" in alerting("alerts", "ack", "fake", "zz").err
    assert "2 alerts whose id begins with ''" in alerting("alerts", "ack", "fake", "").err
    gone = alerting("alerts", "label", "fake", "alert_" + "0" * 24, "normal")
    assert (gone.status, "has no alert" in gone.err) == (1, True)


def test_alerts_are_exported(alerting: Run, tmp_path: Path) -> None:
    assert alerting("alerts", "export", "fake").out == "fake-alerts.json\n"
    assert len(json.loads((tmp_path / "fake-alerts.json").read_text())["alerts"]) == 2
    alerting("alerts", "export", "fake", "--csv", "--to", "a.csv")
    with (tmp_path / "a.csv").open() as file:
        assert {row["template"] for row in csv.DictReader(file)} == {"ab →→ <*>", "ab →→→b <*>"}
    assert alerting("alerts", "export", "nothing").status == 1
    assert not (tmp_path / "nothing-alerts.json").exists()


def test_labeled_alerts_are_evaluated(alerting: Run) -> None:
    without = alerting("evaluate", "fake")
    assert (without.status, "--alerts" in without.err) == (2, True)
    rows = [line.split("\t") for line in alerting("alerts", "list", "fake").out.splitlines()]
    for row, label in zip(rows, ("normal", "incident"), strict=True):
        alerting("alerts", "label", "fake", row[0], label)
    shown = alerting("evaluate", "fake", "--alerts", "--split", "none", "--no-baselines")
    assert shown.status == 0, shown.err
    assert "evaluated\t3 lines" in shown.out and ", of an alert, score" in shown.out
