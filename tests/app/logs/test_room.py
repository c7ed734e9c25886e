import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.decisions import Suppression
from nextchar.app.logs.room import follow_model
from nextchar.models.anomaly.alerts import AlertKey
from nextchar.store.blobs import Blobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.alerts.occurrences import GROUP, one
from tests.app.operations.test_retention import PERIODS
from tests.app.sweeping import retention_of
from tests.every_call import every_call
from tests.store.test_models import FILES
from tests.store.test_models import _card as card

OTHER = AlertKey("disk <*> failed", "1:<*>")


class World:
    """Two versions of m with two alerts, of which one is labeled; and a suppression."""

    def __init__(self, redis_url: str, blobs: Blobs) -> None:
        self.redis = Redis.from_url(redis_url, decode_responses=True)
        self.blobs = blobs
        self.models, self.alerts = Models(blobs), Alerts(self.redis, blobs)
        for number in (1, 2):
            self.models.publish(card(number=number), FILES)
        self.alerts.record([one(score=12.0), one(group=OTHER)])
        self.alerts.acknowledge("m", GROUP.alert_id("m"), by="ann")
        self.alerts.label("m", GROUP.alert_id("m"), "normal", by="bob")
        self.alerts.decisions.suppress(
            Suppression(model="m", template="x *", until=time.time() + 1000, created_by="cem")
        )

    def follow(self, name: str) -> bool:
        """Let alerts follow the versions of a name."""
        return follow_model(self.models, self.alerts, name)

    def everything(self, name: str) -> tuple[list[str], list[str], list[str]]:
        """Return what is stored of a name: decisions and suppressions, and ids in Redis."""
        return (
            self.blobs.paths(f"alert_decisions/{name}"),
            self.blobs.paths(f"alert_suppressions/{name}"),
            sorted(self.redis.zrange(f"nextchar:alerts:of:{name}", 0, -1)),  # type: ignore[type-var, arg-type]
        )


@pytest.fixture
def world(clean_redis_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(clean_redis_url, open_blobs(tmp_path.as_uri()))
    yield made
    made.redis.close()


def test_alerts_stay_while_their_name_has_a_version(world: World) -> None:
    before = world.everything("m")
    world.models.delete("m@2")
    assert not world.follow("m")
    assert world.everything("m") == before
    assert not world.follow("unknown")


def test_alerts_are_deleted_with_the_last_version(world: World) -> None:
    for version in (1, 2):
        world.models.delete(f"m@{version}")
    assert world.follow("m")
    assert world.everything("m") == ([], [], [])
    assert world.redis.keys("nextchar:alert:*") == []
    world.models.publish(card(number=3), FILES)
    world.alerts.record([one()])
    [alert] = world.alerts.all("m")
    assert (alert.state, alert.label) == ("open", None), "the new model begins without the old labels"


def test_alerts_move_with_a_name_that_is_renamed(world: World) -> None:
    world.models.delete("m@1")
    world.models.rename("m", "n")
    world.follow("m")
    assert world.everything("m") == ([], [], [])
    alerts = {alert.id: alert for alert in world.alerts.all("n")}
    assert alerts.keys() == {GROUP.alert_id("n"), OTHER.alert_id("n")}
    labeled = alerts[GROUP.alert_id("n")]
    assert (labeled.label, labeled.figures.model, labeled.figures.version) == ("normal", "n", 1)
    assert labeled.decision is not None and labeled.decision.acknowledged_by == "ann"
    assert len(world.blobs.paths(f"alert_decisions/n/{labeled.id}")) == 2, "with its history"
    assert world.alerts.labels("n").keys() == {labeled.id}
    assert [s.template for s in world.alerts.decisions.suppressions("n")] == ["x *"]
    world.alerts.record([one(model="n")])
    assert world.alerts.get("n", labeled.id).figures.count == 2, "further lines are counted there"


def test_alerts_follow_the_version_that_is_deleted_or_renamed_last(world: World) -> None:
    world.models.delete("m@2")
    world.models.rename("m@1", "n")
    world.follow("m")
    assert [label.label for label in world.alerts.labels("n").values()] == ["normal"]
    world.models.publish(card("n", number=3), FILES)
    world.models.rename("n@2", "unrelated")
    world.models.delete("n@1")
    assert world.follow("n")
    assert world.everything("n") == world.everything("unrelated") == ([], [], [])


def test_what_the_other_name_has_already_stays(world: World) -> None:
    world.models.publish(card("n", number=4), FILES)
    world.alerts.record([one(model="n", score=3.0)])
    world.alerts.label("n", GROUP.alert_id("n"), "incident", by="dee")
    world.models.delete("m@1")
    world.models.rename("m", "n")
    world.follow("m")
    alert = world.alerts.get("n", GROUP.alert_id("n"))
    assert (alert.label, alert.figures.score, alert.figures.count) == ("incident", 3.0, 1)
    assert OTHER.alert_id("n") in {alert.id for alert in world.alerts.all("n")}


def test_a_killed_process_leaves_work_that_the_retention_sweep_completes(
    clean_redis_url: str, tmp_path: Path
) -> None:
    for call in every_call(more_than=10):
        folder = tmp_path / str(call.at)
        Redis.from_url(clean_redis_url).flushdb()
        world = World(clean_redis_url, open_blobs(folder.as_uri()))
        world.models.delete("m@1")
        world.models.rename("m", "n")
        blobs, redis = call.blobs(world.blobs), call.redis(world.redis)
        with call.dying():
            follow_model(Models(blobs), Alerts(redis, blobs), "m")
        retention_of(world.blobs, world.redis, PERIODS).sweep()
        assert world.everything("m") == ([], [], [])
        assert Alerts(world.redis, world.blobs).labels("n").keys() == {GROUP.alert_id("n")}
        assert len(world.blobs.paths("alert_suppressions/n")) == 1


@pytest.mark.parametrize("to", ["n", None])
def test_alerts_without_decisions_follow_their_model_at_the_next_sweep(redis: Redis, to: str | None) -> None:
    blobs = open_blobs("memory:///")
    models, alerts = Models(blobs), Alerts(redis, blobs)

    def sweep() -> int:
        swept = retention_of(blobs, redis, PERIODS, alerts=alerts).sweep()
        return swept["alerts of former models"]

    models.publish(card(), FILES)
    alerts.record([one(), one(group=OTHER)])
    assert sweep() == 0 and len(alerts.all("m")) == 2
    models.rename("m", to) if to else models.delete("m")  # by a process that is killed then
    assert sweep() == 1
    assert (len(alerts.all("m")), len(alerts.all("n"))) == (0, 2 if to else 0)
    assert sweep() == 0 and alerts.models() == ({"n"} if to else set())
