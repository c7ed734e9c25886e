from pathlib import Path

import pytest
from redis import Redis

from models.anomaly.alerts import AlertKey
from models.errors import NotFound
from store.alerts import Alerts
from store.open_blobs import open_blobs
from tests.store.occurrences import NOW, one


@pytest.fixture
def redis(clean_redis_url: str) -> Redis:
    return Redis.from_url(clean_redis_url, decode_responses=True)


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


def test_groups_and_models_have_their_own_alerts(alerts: Alerts) -> None:
    alerts.record([one(at=NOW), one(group=AlertKey("other", "0:other"), at=NOW + 1), one(model="n")])
    assert [alert.figures.template for alert in alerts.all("m")] == ["other", "user <*> failed"]
    assert [alert.figures.count for alert in alerts.all("n")] == [1]
    with pytest.raises(NotFound):
        alerts.get("n", one().alert_id)


def test_totals_count_lines_and_alerts_by_severity(alerts: Alerts) -> None:
    alerts.record([one(), one(p_value=0.00001), one(model="n", p_value=0.0005)])
    alerts.record([one()])
    lines, opened = alerts.totals()
    assert lines == {("m", "info"): 2, ("m", "critical"): 1, ("n", "warning"): 1}
    assert opened == {("m", "critical"): 1, ("n", "warning"): 1}


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
