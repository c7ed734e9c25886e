from pathlib import Path

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.models.anomaly.alerts import AlertKey
from nextchar.models.errors import NotFound
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.alerts.occurrences import GROUP, NOW, one


@pytest.fixture
def alerts(redis: Redis, tmp_path: Path) -> Alerts:
    return Alerts(redis, open_blobs(tmp_path.as_uri()))


def test_lines_of_one_group_are_one_alert(alerts: Alerts) -> None:
    alerts.record([one(at=NOW, line_time=5.0), one("user 2 failed", score=9.5, p_value=0.0005, at=NOW + 1)])
    alerts.record([one("user 3 failed", at=NOW + 2, line_time=3.0, source="web")])
    [alert] = alerts.all("m")
    figures = alert.figures
    assert (figures.count, figures.first_seen, figures.last_seen) == (3, NOW, NOW + 2)
    assert (figures.first_line_time, figures.last_line_time) == (3.0, 5.0)
    assert (figures.score, figures.p_value, alert.severity) == (9.5, 0.0005, "warning")
    assert figures.sources == ("web",)
    assert [example.line for example in figures.examples] == [
        "user 2 failed",
        "user 1 failed",
        "user 3 failed",
    ]
    assert figures.examples[0].spans[0].model_dump() == {"start": 5, "end": 6, "bits": 7.5, "expected": "x"}
    assert (alert.state, alert.label) == ("open", None)
    assert alerts.get("m", alert.id) == alert


def test_severity_is_that_of_the_lowest_estimated_p_value(alerts: Alerts, redis: Redis) -> None:
    alerts.record([one(p_value=0.0074, estimated_p=0.0009), one(p_value=0.0074, estimated_p=0.005)])
    [alert] = alerts.all("m")
    assert (alert.figures.p_value, alert.figures.estimated_p, alert.severity) == (0.0074, 0.0009, "warning")
    assert alerts.totals()[0] == {("m", "warning"): 1, ("m", "info"): 1}
    alerts.record([one(p_value=0.0074, estimated_p=0.00002)])
    assert alerts.all("m")[0].severity == "critical"
    redis.hdel(f"nextchar:alert:{alert.id}", "estimated_p")  # as an earlier version has recorded it
    assert alerts.all("m")[0].severity == "info"
    alerts.record([one(p_value=0.0074, estimated_p=0.002)])
    assert alerts.all("m")[0].figures.estimated_p == 0.002


OTHER = AlertKey("disk <*> full", "1:<*>")


def test_alerts_of_all_models_are_found_by_when_a_line_was_recorded(alerts: Alerts) -> None:
    alerts.record([one(at=NOW - 1_000)], recorded_at=NOW)
    alerts.record([one(group=OTHER)], recorded_at=NOW - 10)
    alerts.record([one(model="n")], recorded_at=NOW + 5)
    alerts.record([one(model="n")], recorded_at=NOW - 20)  # by a process whose clock is behind
    alerts.acknowledge("m", GROUP.alert_id("m"), by="ann")
    alerts.suppress("n", GROUP.alert_id("n"), until=NOW + 1e6, by=None)
    found = {(alert.figures.model, alert.state) for alert in alerts.recorded_since(NOW)}
    assert found == {("m", "acknowledged"), ("n", "suppressed")}
    assert len(alerts.recorded_since(NOW - 10)) == 3
    assert alerts.recorded_since(NOW + 6) == []


def test_alerts_are_listed_most_recently_seen_first_also_those_that_redis_has_lost(
    alerts: Alerts, redis: Redis
) -> None:
    alerts.record([one(at=NOW), one(group=OTHER, at=NOW + 1)])
    alerts.label("m", GROUP.alert_id("m"), "incident", by=None)
    newest = AlertKey("new", "0:new")
    redis.flushall()
    alerts.record([one(group=newest, at=NOW + 2)])
    assert [alert.figures.template for alert in alerts.all("m")] == ["new", "user <*> failed"]
    assert alerts.get("m", GROUP.alert_id("m")).label == "incident"
    with pytest.raises(NotFound) as caught:
        alerts.get("m", OTHER.alert_id("m"))
    assert caught.value.code == "alert_not_found" and "30 days" in caught.value.message


def test_lines_of_labeled_alerts_are_in_order_of_arrival_with_their_labels(alerts: Alerts) -> None:
    for line, group, at in (("b", GROUP, NOW + 1), ("a", GROUP, NOW), ("c", OTHER, NOW + 0.5)):
        alerts.record([one(line, group=group, at=at)])
    alerts.record([one("no one has looked at this", group=AlertKey("new", "0:new"))])
    assert alerts.labeled_lines("m") == [] and alerts.labels("m") == {}
    alerts.label("m", GROUP.alert_id("m"), "incident", by=None)
    alerts.label("m", OTHER.alert_id("m"), "normal", by=None)
    assert alerts.labeled_lines("m") == [("a", True), ("c", False), ("b", True)]
    assert {alert_id: label.label for alert_id, label in alerts.labels("m").items()} == {
        GROUP.alert_id("m"): "incident",
        OTHER.alert_id("m"): "normal",
    }


def test_the_score_up_to_which_an_alert_is_normal_only_rises(alerts: Alerts, redis: Redis) -> None:
    def label_normal(score: float) -> float:
        redis.flushall()
        alerts.record([one(score=score)])
        decision = alerts.label("m", GROUP.alert_id("m"), "normal", by="ann").decision
        assert decision
        return decision.label_score

    alerts.record([one(score=20.0)])
    incident = alerts.label("m", GROUP.alert_id("m"), "incident", by="ann").decision
    assert incident and incident.label_score == 0.0
    assert [label_normal(score) for score in (12.0, 8.0, 13.0)] == [12.0, 12.0, 13.0]


def test_an_alert_moves_to_another_name_with_its_figures(alerts: Alerts, redis: Redis) -> None:
    alerts.record([one(), one(), one(group=OTHER)])
    alerts.move_all("m", "n", 7)
    assert alerts.all("m") == [] and redis.zcard("nextchar:alerts:of:m") == 0
    found = {
        alert.id: (alert.figures.model, alert.figures.version, alert.figures.count)
        for alert in alerts.all("n")
    }
    assert found == {GROUP.alert_id("n"): ("n", 7, 2), OTHER.alert_id("n"): ("n", 7, 1)}
    assert len(alerts.recorded_since(0)) == 2
    alerts.delete_all("n")
    assert alerts.all("n") == [] and redis.keys("nextchar:alert:*") == []
