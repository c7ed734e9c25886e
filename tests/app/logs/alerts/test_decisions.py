import itertools
import time
from functools import partial

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.decisions import (
    _CACHE_S,
    AlertDecisions,
    AlertFigures,
    Decision,
    Suppression,
    suppressed_until,
)
from nextchar.models.anomaly.alerts import AlertKey
from nextchar.models.errors import Conflict, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.alerts.occurrences import GROUP, NOW, one
from tests.every_call import Call, Interrupted, every_call
from tests.store.clock import Clock

ID = GROUP.alert_id("m")
FIRST = int(NOW * 1e6)  # the number of the first decision on an alert
TOMORROW = time.time() + 86_400


@pytest.fixture
def alerts(redis: Redis, blobs: Blobs) -> Alerts:
    return Alerts(redis, blobs)


def test_what_people_say_outlives_redis(alerts: Alerts, redis: Redis, blobs: Blobs) -> None:
    alerts.record([one(score=12.0)])
    alerts.acknowledge("m", ID, by="ann")
    alerts.label("m", ID, "normal", by="bob")
    redis.flushall()
    [alert] = Alerts(redis, blobs).all("m")
    assert (alert.state, alert.label, alert.figures.count) == ("acknowledged", "normal", 1)
    assert alert.decision is not None
    assert (alert.decision.acknowledged_by, alert.decision.labeled_by) == ("ann", "bob")
    assert alert.decision.label_score == 12.0
    assert [example.line for example in alert.figures.examples] == ["user 1 failed"]


def test_of_concurrent_changes_none_is_lost(redis: Redis, blobs: Blobs) -> None:
    """Another process labels the alert before each call of the storage that an acknowledgement makes."""
    Alerts(redis, blobs).record([one()])
    for call in every_call(more_than=1):
        blobs.delete(*blobs.paths("alert_decisions"))
        counted = call.blobs(blobs, partial(Alerts(redis, blobs).label, "m", ID, "incident", by=None))
        Alerts(redis, counted).acknowledge("m", ID, by=None)
        alert = Alerts(redis, blobs).get("m", ID)
        assert alert.decision is not None and alert.decision.acknowledged_at
        assert alert.label == ("incident" if call.has_come else None), call


def test_a_suppressed_alert_is_counted_until_the_suppression_ends(alerts: Alerts) -> None:
    alerts.record([one()])
    suppression = alerts.suppress("m", ID, until=TOMORROW, by="ann")
    alerts.record([one(), one(group=AlertKey("user <*> failed", "0:user"))])
    states = {
        alert.id: (alert.state, alert.suppressed_until, alert.figures.count) for alert in alerts.all("m")
    }
    assert states.pop(ID) == ("suppressed", TOMORROW, 2)
    assert [state for state, *_ in states.values()] == ["open"]  # the same template, another word
    alerts.decisions.delete_suppression("m", suppression.id)
    assert alerts.get("m", ID).state == "open"
    with pytest.raises(NotFound) as caught:
        alerts.decisions.delete_suppression("m", suppression.id)
    assert caught.value.code == "suppression_not_found"


@pytest.mark.parametrize(
    ("pattern", "template", "matches"),
    [
        ("a <*> b", "a <*> b", True),
        ("a <*> b", "a <*> c <*> b", False),  # <*> is a parameter, not a wildcard
        ("a *", "a <*> c", True),
        ("*", "anything\nat all", True),
        ("a.c", "abc", False),
        ("a*<*>*b", "a<*>b", True),
        ("aa*aa", "aaa", False),
        ("*a" * 400, "a" * 1_000 + "b", False),  # in linear time
    ],
)
def test_patterns(pattern: str, template: str, matches: bool) -> None:
    made = Suppression(id="", model="m", template=pattern, until=0.0, created_at=0.0)
    assert made.matches(template, "1:x") == matches


def test_a_damaged_record_does_not_hide_the_others(alerts: Alerts, blobs: Blobs) -> None:
    alerts.record([one()])
    alerts.suppress("m", ID, until=TOMORROW, by=None)
    blobs.write("alert_suppressions/m/suppression_000000000000.json", b"{")
    blobs.write(f"alert_decisions/m/{'alert_' + '1' * 24}/00000000.json", b"[]")
    assert [alert.state for alert in alerts.all("m")] == ["suppressed"]


OTHER = AlertKey("disk <*> failed", "1:<*>")


def moved(figures: AlertFigures) -> AlertFigures:
    """An alert as it is under the name n."""
    key = GROUP if figures.id == ID else OTHER
    return figures.model_copy(update={"id": key.alert_id("n"), "model": "n"})


def test_decisions_and_suppressions_move_to_another_name(
    alerts: Alerts, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(int(time.time()))  # ids of one millisecond have no order
    monkeypatch.setattr("nextchar.store.ids.time.time", lambda: float(next(seconds)))
    alerts.record([one(), one(group=OTHER)])
    alerts.acknowledge("m", ID, by="ann")
    alerts.label("m", ID, "normal", by="bob")
    for alert_id in (ID, OTHER.alert_id("m")):  # the second has no decision
        alerts.suppress("m", alert_id, until=TOMORROW, by="cem")
    alerts.decisions.suppress(Suppression(model="m", template="a *", until=TOMORROW, created_by="dan"))
    paths = [*blobs.paths("alert_decisions/m"), *blobs.paths("alert_suppressions/m")]
    before = {path: blobs.read(path) for path in paths}
    for _ in range(2):  # it can be repeated
        alerts.decisions.move_all("m", "n", moved)
        [(alert_id, decision)] = alerts.decisions.all("n").items()
        assert (alert_id, decision.sequence, decision.label) == (GROUP.alert_id("n"), FIRST + 1, "normal")
        assert (decision.acknowledged_by, decision.figures.model) == ("ann", "n")
        assert len(blobs.paths("alert_decisions/n")) == 2, "with its history"
        suppressions = alerts.decisions.suppressions("n")
        assert [one.alert_id for one in suppressions] == [None, None, GROUP.alert_id("n")]
        assert [(one.model, one.created_by, one.until) for one in suppressions] == [
            ("n", by, TOMORROW) for by in ("dan", "cem", "cem")
        ]
        assert alerts.decisions.models() == {"n"} and alerts.decisions.all("m") == {}
        for path, data in before.items():
            blobs.write(path, data)


def test_decisions_under_the_other_name_stay(alerts: Alerts, blobs: Blobs) -> None:
    alerts.record([one(), one(model="n")])
    alerts.label("n", GROUP.alert_id("n"), "incident", by="dee")
    alerts.label("m", ID, "normal", by="bob")
    alerts.acknowledge("m", ID, by="bob")
    alerts.suppress("m", ID, until=TOMORROW, by="cem")
    alerts.decisions.move_all("m", "n", moved)
    assert [decision.label for decision in alerts.decisions.all("n").values()] == ["incident"]
    assert len(blobs.paths("alert_decisions/n")) == 1
    assert [suppression.alert_id for suppression in alerts.decisions.suppressions("n")] == [None]


def test_suppressions_of_another_process_hold_after_as_long_as_the_list_is_remembered() -> None:
    blobs, clock = open_blobs("memory:///"), Clock()
    ours, theirs = AlertDecisions(blobs, clock=clock), AlertDecisions(blobs)
    assert ours.suppressions("m") == []
    made = theirs.suppress(Suppression(model="m", template="a *", until=TOMORROW, created_by="ann"))
    clock.now_s += 0.75 * _CACHE_S
    assert ours.suppressions("m") == []
    clock.now_s += 0.25 * _CACHE_S
    assert ours.suppressions("m") == [made]
    theirs.delete_suppression("m", made.id)
    clock.now_s += 0.75 * _CACHE_S
    assert ours.suppressions("m") == [made]
    clock.now_s += 0.25 * _CACHE_S
    assert ours.suppressions("m") == []


def test_300_alerts_are_compared_with_300_suppressions_without_compiling_a_pattern_for_each_pair() -> None:
    found = [
        Suppression(id="", model="m", template=f"user {i} from * <*>", span="*", until=9.0, created_at=0.0)
        for i in range(300)
    ]
    began = time.process_time()
    for i in range(300):
        assert suppressed_until(found, f"user {i} at <*>", "1:x", now=1.0) is None
    assert time.process_time() - began < 1.0, "0.03 on a slow machine; compiling takes 3.5"


def test_a_pattern_is_of_the_template_and_of_the_span() -> None:
    made = Suppression(id="", model="m", template="a *", span="1:*", until=0.0, created_at=0.0)
    assert made.matches("a b", "1:x")
    assert not made.matches("a b", "2:x") and not made.matches("b", "1:x")
    assert not made.matches_everything


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_label_on_an_alert_of_a_new_model_is_not_that_of_a_former_model(
    alerts: Alerts, redis: Redis, blobs: Blobs, is_renamed: bool
) -> None:
    other_process, clock = Alerts(redis, blobs), Clock()
    other_process.decisions = AlertDecisions(blobs, clock=clock)
    alerts.record([one()])
    alerts.label("m", ID, "normal", by="ann")
    assert [process.labels("m")[ID].label for process in (alerts, other_process)] == ["normal"] * 2
    if is_renamed:
        alerts.move_all("m", "n", 1)
    else:
        alerts.delete_all("m")
    alerts.record([one(at=NOW + 1.0)])
    alerts.label("m", ID, "incident", by="ann")
    clock.now_s += _CACHE_S
    assert [process.labels("m")[ID].label for process in (alerts, other_process)] == ["incident"] * 2
    other_process.acknowledge("m", ID, by="bob")
    assert Alerts(redis, blobs).labels("m")[ID].label == "incident"
    assert [label.label for label in alerts.labels("n").values()] == ["normal"] * is_renamed


def test_an_alert_that_others_change_again_and_again_is_a_conflict(alerts: Alerts, blobs: Blobs) -> None:
    class Taken(Interrupted):
        def create(self, path: str, data: bytes) -> bool:
            return not super().create(path, data)

    alerts.record([one()])
    figures = alerts.get("m", ID).figures
    with pytest.raises(Conflict, match="is being changed by others") as caught:
        AlertDecisions(Taken(blobs, Call(99))).change(
            "m", ID, lambda _: Decision(changed_at=0.0, figures=figures)
        )
    assert caught.value.code == "alert_changed"
