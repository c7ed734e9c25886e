import itertools
from typing import Any

import pytest

from nextchar.app.logs.notifications.events import EVENT_TYPES
from nextchar.app.logs.notifications.targets import (
    NotificationTarget,
    NotificationTargets,
    configured_target,
    is_secret,
)
from nextchar.models.errors import NotFound
from nextchar.store.blobs import Blobs


def target(**fields: Any) -> NotificationTarget:
    return NotificationTarget(id="t", kind="webhook", url="https://a.example", created_at=1.0, **fields)


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        ("info", ["info", "warning", "critical"]),
        ("warning", ["warning", "critical"]),
        ("critical", ["critical"]),
    ],
)
def test_alerts_are_wanted_from_a_severity_on(least: Any, wanted: list[str]) -> None:
    one = target(min_severity=least)
    assert [s for s in ("info", "warning", "critical") if one.wants_alert("m", s)] == wanted  # type: ignore[arg-type]


def test_events_are_wanted_of_the_models_that_match() -> None:
    one = target(models=("web-*", "db"), events=("alert.firing", "job.failed"))
    names = ("web-1", "db", "db-1", "xweb-1", "")
    assert [name for name in names if one.wants("job.failed", name)] == ["web-1", "db"]
    assert [name for name in names if one.wants_alert(name, "critical")] == ["web-1", "db"]
    assert [event for event in EVENT_TYPES if one.wants(event, "db")] == ["alert.firing", "job.failed"]
    assert all(target(events=EVENT_TYPES).wants(event, "any") for event in EVENT_TYPES)


@pytest.mark.parametrize(
    ("events", "alerts", "records"),
    [
        (("alert.firing",), True, False), (("alert.resolved", "model.deleted"), True, True),
        (("job.paused",), False, True), ((), False, False),
    ],
)  # fmt: skip
def test_a_target_gets_alerts_or_records_or_both(events: Any, alerts: bool, records: bool) -> None:
    one = target(events=events)
    assert (one.wants_alert("m", "critical"), one.wants_records) == (alerts, records)
    assert (target().wants_alert("m", "info"), target().wants_records) == (True, False)


def test_targets_are_listed_newest_first_and_those_of_the_settings_last(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(1_795_563_600)  # ids of one millisecond have no order
    monkeypatch.setattr("nextchar.store.ids.time.time", lambda: float(next(seconds)))
    own = configured_target("alertmanager", "http://alertmanager:9093")
    targets = NotificationTargets(blobs, (own,))
    options: dict[str, Any] = {"models": ("a*",), "min_severity": "warning"}
    first = targets.create("webhook", "https://a.example", **options)
    second = targets.create("alertmanager", "https://b.example", **options, events=("job.failed",))
    assert targets.all() == [second, first, own]
    assert (first.models, first.min_severity, first.is_trusted) == (("a*",), "warning", False)
    assert first.secret and is_secret(first.secret) and second.secret is None
    assert second.events == ("job.failed",)
    assert (own.id, own.is_trusted, own.created_at, own.secret) == ("settings-alertmanager", True, 0, None)
    assert targets.get(first.id) == first and targets.get(own.id) == own
    blobs.write(f"notification_targets/{first.id}.json", b"{")
    assert targets.all() == [second, own], "a damaged record stops no other"
    targets.delete(second.id)
    assert targets.all() == [own]
    for unknown, hint in (
        (second.id, "deleted$"),
        ("../x", "deleted$"),
        (own.id, "it is one of the settings"),
    ):
        with pytest.raises(NotFound, match=hint) as caught:
            targets.delete(unknown)
        assert caught.value.code == "target_not_found"
    with pytest.raises(NotFound, match="there is no notification target"):
        targets.get(second.id)
