import itertools
import threading
import time
from functools import partial

import pytest
from pydantic import ValidationError
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


def test_an_acknowledged_alert_is_still_counted(alerts: Alerts) -> None:
    alerts.record([one()])
    assert alerts.acknowledge("m", ID, by=None).state == "acknowledged"
    alerts.record([one()])
    assert [(alert.state, alert.figures.count) for alert in alerts.all("m")] == [("acknowledged", 2)]


def test_a_label_can_be_changed_and_withdrawn(alerts: Alerts, redis: Redis) -> None:
    alerts.record([one()])
    assert alerts.label("m", ID, "incident", by=None).label == "incident"
    redis.flushall()  # the alert is gone, what was said of it is not
    assert alerts.label("m", ID, None, by=None).state == "open"


def test_every_change_is_kept(alerts: Alerts, blobs: Blobs) -> None:
    alerts.record([one()])
    alerts.acknowledge("m", ID, by=None)
    alerts.label("m", ID, "incident", by=None)
    assert blobs.paths("alert_decisions") == [f"alert_decisions/m/{ID}/{FIRST + n}.json" for n in (0, 1)]


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


def test_many_threads_can_change_one_alert(redis: Redis, blobs: Blobs) -> None:
    alerts = Alerts(redis, blobs)
    alerts.record([one()])
    threads = [
        threading.Thread(target=alerts.acknowledge, args=("m", ID), kwargs={"by": str(i)}) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(blobs.paths("alert_decisions")) == 4


@pytest.mark.parametrize("alert_id", ["alert_0123456789ab", "../../x", "", "alert_" + "0" * 24])
def test_an_alert_that_is_gone_cannot_be_labeled(alerts: Alerts, alert_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        alerts.label("m", alert_id, "normal", by=None)
    assert caught.value.code == "alert_not_found"


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


def test_a_suppression_that_has_ended_does_nothing(alerts: Alerts) -> None:
    alerts.record([one()])
    alerts.suppress("m", ID, until=time.time() - 1, by=None)
    assert alerts.get("m", ID).state == "open"
    assert len(alerts.decisions.suppressions("m")) == 1


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


@pytest.mark.parametrize(
    ("template", "span", "everything"), [("*", "**", True), ("*", "1:*", False), ("a*", "*", False)]
)
def test_a_suppression_of_everything_is_recognized(template: str, span: str, everything: bool) -> None:
    made = Suppression(id="", model="m", template=template, span=span, until=0.0, created_at=0.0)
    assert made.matches_everything == everything


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
    alerts.decisions.suppress("m", template="a *", span="*", until=TOMORROW, by="dan")
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
    made = theirs.suppress("m", template="a *", span="*", until=TOMORROW, by="ann")
    clock.now_s += 0.75 * _CACHE_S
    assert ours.suppressions("m") == []
    clock.now_s += 0.25 * _CACHE_S
    assert ours.suppressions("m") == [made]
    theirs.delete_suppression("m", made.id)
    clock.now_s += 0.75 * _CACHE_S
    assert ours.suppressions("m") == [made]
    clock.now_s += 0.25 * _CACHE_S
    assert ours.suppressions("m") == []


def test_alerts_are_suppressed_until_the_last_of_their_suppressions_ends() -> None:
    def one_until(until: float, template: str = "*", span: str = "*") -> Suppression:
        return Suppression(id="", model="m", template=template, span=span, until=until, created_at=0.0)

    found = [
        one_until(5.0),
        one_until(9.0),
        one_until(7.0),
        one_until(99.0, "b"),
        one_until(99.0, "*", "2:*"),
    ]
    for now, until in ((4.0, 9.0), (8.5, 9.0), (9.0, None), (10.0, None)):
        assert suppressed_until(found, "a", "1:x", now=now) == until
    assert suppressed_until(found, "b", "1:x", now=0.0) == 99.0
    assert suppressed_until([], "a", "1:x", now=0.0) is None


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


@pytest.mark.parametrize("length", [1000, 1001])
def test_a_pattern_is_bounded(length: int) -> None:
    def make() -> Suppression:
        return Suppression(id="", model="m", template="x" * length, until=0.0, created_at=0.0)

    if length > 1000:
        with pytest.raises(ValidationError):
            make()
    else:
        assert make().span == "*"


@pytest.mark.parametrize("suppression_id", ["suppression_0123456789ab", "../x", "", "alert_0123456789ab"])
def test_a_suppression_that_is_not_there_cannot_be_deleted(suppression_id: str) -> None:
    blobs = open_blobs("memory:///")
    decisions = AlertDecisions(blobs)
    made = decisions.suppress("m", template="a", span="*", until=TOMORROW, by=None)
    blobs.write("alert_suppressions/m/alert_0123456789ab.json", b"{}")
    with pytest.raises(NotFound) as caught:
        decisions.delete_suppression("m", suppression_id)
    assert caught.value.code == "suppression_not_found"
    with pytest.raises(NotFound):
        decisions.delete_suppression("n", made.id)
    assert decisions.suppressions("m") == [made]


def test_records_are_read_once_and_their_sequence_goes_on(alerts: Alerts, blobs: Blobs) -> None:
    alerts.record([one()])
    decided = [alerts.label("m", ID, "incident", by=str(i)).decision for i in range(12)]
    assert [decision and decision.sequence for decision in decided] == list(range(FIRST, FIRST + 12))
    assert blobs.paths("alert_decisions")[-1].endswith(f"/{FIRST + 11}.json")
    newest = alerts.decisions.all("m")[ID]
    assert newest.changed_by == "11" and alerts.decisions.all("m")[ID] is newest


def test_decisions_that_are_numbered_from_0_go_on(alerts: Alerts, blobs: Blobs) -> None:
    """As an older version has numbered them."""
    alerts.record([one()])
    alerts.label("m", ID, "normal", by="ann")
    [path] = blobs.paths("alert_decisions")
    blobs.write(f"alert_decisions/m/{ID}/00000009.json", blobs.read(path))
    blobs.delete(path)
    decision = AlertDecisions(blobs).change("m", ID, lambda current: current or pytest.fail("none"))
    assert (decision.sequence, decision.label) == (10, "normal")
    assert blobs.paths("alert_decisions")[-1].endswith("/00000010.json")


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


def test_the_first_decisions_of_two_processes_on_an_alert_are_both_kept(
    alerts: Alerts, redis: Redis, blobs: Blobs
) -> None:
    """At each step of the first decision another process makes one."""
    for call in every_call(more_than=2):
        alerts.delete_all("m")
        alerts.record([one(at=NOW + call.at)])
        counted = call.blobs(blobs, lambda: alerts.acknowledge("m", ID, by="ann"))
        Alerts(redis, counted).label("m", ID, "incident", by="bob")
        decision = Alerts(redis, blobs).get("m", ID).decision
        acknowledged_by = "ann" if call.has_come else None
        assert decision and (decision.label, decision.acknowledged_by) == ("incident", acknowledged_by), call


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
