"""A label, or a suppression, hides no more than it shows: on the log of a web server."""

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from nextchar.app.logs.alerts.alerts import Alerts
from tests.app.fakes import publish
from tests.app.logs.alerts.occurrences import NOW
from tests.app.service import Service, error_of

PATH = "/v1/models/web/alerts"
TOMORROW = NOW + 86_400
LOGIN, BACKUP, RARE = "GET /wp→login.php 404", "GET /app.js→bak 404", "GET /→→etc→passwd 404"


def _normal() -> Iterator[str]:
    r = random.Random(1)
    for _ in range(400):
        yield f"GET /{''.join(r.choice('abjlnpw.') for _ in range(8))} 404"


@pytest.fixture
def http(service: Service) -> httpx.Client:
    lines = list(_normal())
    characters = "".join(sorted(set("\n".join([*lines, LOGIN, BACKUP, RARE])) - {"→"}))
    publish(service.models, name="web", lines=lines, characters=characters)
    service.http.post("/v1/models/web/calibrate", json={"lines": lines}).raise_for_status()
    return service.http


def score(http: httpx.Client, *lines: str, **more: Any) -> list[dict[str, Any]]:
    answer = http.post(
        "/v1/models/web/score", json={"lines": lines, "detail": "line", "repeats": "flag", **more}
    )
    found: list[dict[str, Any]] = answer.raise_for_status().json()["lines"]
    return found


def recorded(http: httpx.Client) -> dict[str, Any]:
    """Record the three strange lines; return their one alert."""
    found = score(http, LOGIN, LOGIN, BACKUP, RARE, alerts=True)
    assert all(one["anomalous"] for one in found)
    [alert] = http.get(PATH).json()["data"]
    assert alert["count"] == 4
    return dict(alert)


def test_a_preview_shows_every_value_and_what_would_stay(http: httpx.Client) -> None:
    alert = recorded(http)
    found = http.get(f"{PATH}/{alert['id']}/preview", params={"values": "/wp→login.php"}).json()
    assert [(one["value"], one["count"], one["line"]) for one in found["covered"]] == [
        ("/wp→login.php", 2, LOGIN)
    ]
    assert {one["line"] for one in found["others"]} == {BACKUP, RARE} and found["other_lines"] == 0
    whole = http.get(f"{PATH}/{alert['id']}/preview", params={"all_values": True}).json()
    assert len(whole["covered"]) == 3 and not whole["others"]
    assert found["covered"][0]["estimated_p_value"] <= 0.01


def test_labeling_one_path_does_not_hide_another(http: httpx.Client) -> None:
    alert = recorded(http)
    body = {"label": "normal", "values": ["/wp→login.php"]}
    labeled = http.post(f"{PATH}/{alert['id']}/label", json=body).json()
    assert (labeled["label"], labeled["label_values"], labeled["state"]) == (
        "normal",
        ["/wp→login.php"],
        "open",
    )
    assert [one["anomalous"] for one in score(http, LOGIN, BACKUP, RARE)] == [False, True, True]


def test_labeling_a_title_hides_what_it_shows_and_then_shows_the_next(http: httpx.Client) -> None:
    alert = recorded(http)
    assert alert["title"].replace("»", "").replace("«", "") == RARE
    [shown] = http.get(f"{PATH}/{alert['id']}/preview").json()["covered"]
    assert shown["line"] == RARE
    labeled = http.post(f"{PATH}/{alert['id']}/label", json={"label": "normal"}).json()
    assert [one["anomalous"] for one in score(http, LOGIN, BACKUP, RARE)] == [True, True, False]
    assert RARE not in labeled["title"].replace("»", "").replace("«", "")
    # Labeled again, it covers more; the alert is done with once all of its values are labeled.
    for _ in range(2):
        labeled = http.post(f"{PATH}/{alert['id']}/label", json={"label": "normal"}).json()
    assert labeled["state"] == "acknowledged"
    assert not any(one["anomalous"] for one in score(http, LOGIN, BACKUP, RARE))


def test_a_label_is_undone(http: httpx.Client) -> None:
    alert = recorded(http)
    http.post(f"{PATH}/{alert['id']}/label", json={"label": "normal", "all_values": True}).raise_for_status()
    assert not any(one["anomalous"] for one in score(http, LOGIN, BACKUP, RARE))
    undone = http.post(f"{PATH}/{alert['id']}/label", json={"label": None}).json()
    assert (undone["label"], undone["label_values"], undone["state"]) == (None, None, "open")
    assert all(one["anomalous"] for one in score(http, LOGIN, BACKUP, RARE))


def test_a_suppression_of_one_value_leaves_the_alert_open(http: httpx.Client) -> None:
    alert = recorded(http)
    path = f"{PATH}/{alert['id']}"
    runbook = "https://wiki.example/scanners"
    body = {"until": TOMORROW, "values": ["/wp→login.php"], "runbook": runbook}
    made = http.post(f"{path}/suppress", json=body).json()
    assert (made["values"], made["runbook"]) == (["/wp→login.php"], runbook)
    found = http.get(path).json()
    assert (found["state"], found["suppressed_until"], found["runbook"]) == ("open", None, runbook)
    http.post(f"{path}/suppress", json={"until": TOMORROW, "all_values": True}).raise_for_status()
    assert http.get(path).json()["state"] == "suppressed"


def test_values_that_the_alert_does_not_have_are_refused(http: httpx.Client) -> None:
    path = f"{PATH}/{recorded(http)['id']}"
    answer = http.post(f"{path}/label", json={"label": "normal", "values": ["/other"]})
    assert error_of(answer, 422)["param"] == "values"
    answer = http.post(f"{path}/label", json={"label": "normal", "values": [], "all_values": True})
    assert answer.status_code == 422


def test_of_many_values_the_rarest_are_kept(service: Service, http: httpx.Client) -> None:
    made = Alerts(redis.Redis.from_url(service.settings.redis_url, decode_responses=True), service.blobs)
    score(http, *(f"GET /{'→' * (1 + i % 9)}{i:03}a 404" for i in range(80)), alerts=True)
    for alert in made.all("web"):
        values = alert.figures.values
        assert len(values) <= 50 and alert.figures.count >= sum(one.count for one in values)
        assert [one.score for one in values] == sorted((one.score for one in values), reverse=True)
