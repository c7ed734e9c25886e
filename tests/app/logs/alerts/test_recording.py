import json
import threading
from pathlib import Path

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.recording import EVICTED_KEY, MAX_EXAMPLES, MAX_INTERVALS, Limits, StreamEntries
from nextchar.models.anomaly.alerts import AlertKey
from nextchar.store.local_blobs import LocalBlobs
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.alerts.occurrences import NOW, one


@pytest.fixture
def alerts(redis: Redis, tmp_path: Path) -> Alerts:
    return Alerts(redis, open_blobs(tmp_path.as_uri()))


def test_the_examples_are_distinct_and_the_most_anomalous(alerts: Alerts) -> None:
    for score in (1, 9, 3, 9, 7, 5, 2, 8, 1):
        alerts.record([one(f"line {score}", score=float(score))])
    [alert] = alerts.all("m")
    assert [example.score for example in alert.figures.examples] == [9, 8, 7, 5, 3]
    assert len(alert.figures.examples) == MAX_EXAMPLES


def test_a_sparkline_is_bounded_and_loses_no_line(alerts: Alerts) -> None:
    times = [NOW + 37 * i for i in range(0, 3_000, 7)]
    for at in times:
        alerts.record([one(at=at)])
    figures = alerts.all("m")[0].figures
    assert len(figures.counts) <= MAX_INTERVALS
    assert sum(figures.counts) == len(times)
    assert figures.interval_s * len(figures.counts) >= times[-1] - NOW
    expected = [0] * len(figures.counts)  # counted at once, in the final intervals
    for at in times:
        expected[int((at - NOW) // figures.interval_s)] += 1
    assert list(figures.counts) == expected


def test_entries_are_acknowledged_and_deleted_with_their_lines(alerts: Alerts, redis: Redis) -> None:
    redis.xgroup_create("s", "g", mkstream=True)
    ids = [redis.xadd("s", {"line": str(i)}) for i in range(3)]
    redis.xreadgroup("g", "c", {"s": ">"})
    occurrences = [one(entry=ids[0]), one(entry=ids[0]), one(entry=ids[2])]
    for _ in range(2):  # the second time none of them is left
        alerts.record(occurrences, acknowledge=StreamEntries("s", "g", ids))
        assert alerts.all("m")[0].figures.count == 3
    assert redis.xlen("s") == 0
    assert redis.xpending("s", "g")["pending"] == 0


def test_two_replicas_that_get_every_entry_count_each_line_once(clean_redis_url: str, tmp_path: Path) -> None:
    """Every entry is delivered to both, as after a worker that was slow but not dead."""
    lines = 2_000
    redis = Redis.from_url(clean_redis_url, decode_responses=True)
    redis.xgroup_create("s", "g", mkstream=True)
    with redis.pipeline(transaction=False) as pipe:
        for i in range(lines):
            pipe.xadd("s", {"line": f"user {i} failed"})
        ids = pipe.execute()
    redis.xreadgroup("g", "first", {"s": ">"}, count=lines)
    start = threading.Barrier(2)

    def score(step: int) -> None:
        own = Alerts(Redis.from_url(clean_redis_url, decode_responses=True), LocalBlobs(tmp_path))
        start.wait()
        for at in range(0, lines, step):
            batch = ids[at : at + step]
            occurrences = [one(f"user {i} failed", entry=entry) for i, entry in enumerate(batch)]
            own.record(occurrences, acknowledge=StreamEntries("s", "g", batch))

    threads = [threading.Thread(target=score, args=(step,)) for step in (17, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Alerts(redis, LocalBlobs(tmp_path)).all("m")[0].figures.count == lines
    assert redis.xlen("s") == 0


def test_many_occurrences_are_recorded_in_parts(alerts: Alerts, redis: Redis) -> None:
    alerts.record([one(f"user {i} failed") for i in range(5_000)])
    assert alerts.all("m")[0].figures.count == 5_000
    redis.xgroup_create("s", "g", mkstream=True)
    ids = [redis.xadd("s", {"line": "x"}) for _ in range(3)]
    redis.xreadgroup("g", "c", {"s": ">"})
    occurrences = [one(f"user {i} failed", entry=ids[i % 3]) for i in range(3_000)]
    alerts.record(occurrences, acknowledge=StreamEntries("s", "g", ids))
    assert alerts.all("m")[0].figures.count == 8_000
    assert redis.xlen("s") == 0


def templates(alerts: Alerts, model: str) -> list[str]:
    return [alert.figures.template for alert in alerts.all(model)]


def flood(alerts: Alerts, count: int, *, model: str = "m", owner: str = "", p_value: float = 0.005) -> None:
    """Record lines of ever new templates, one per second."""
    for i in range(count):
        key, at = AlertKey(f"template {i}", ""), NOW + i
        line = one("x" * 900, group=key, model=model, at=at, owner=owner, p_value=p_value)
        alerts.record([line], recorded_at=NOW)


def test_a_flood_of_templates_evicts_its_least_severe_alerts_the_oldest_first_and_is_summed_up(
    redis: Redis, tmp_path: Path
) -> None:
    alerts = Alerts(redis, LocalBlobs(tmp_path), Limits(max_per_model=4))
    intrusion = AlertKey("intrusion", "")
    alerts.record([one("psst", group=intrusion, p_value=0.00001, at=NOW - 60)])
    flood(alerts, 8)
    assert templates(alerts, "m") == ["template 7", "template 6", EVICTED_KEY.template, "intrusion"]
    summary = alerts.get("m", EVICTED_KEY.alert_id("m"))
    assert (summary.severity, summary.figures.count) == ("info", 5)
    assert summary.figures.examples[0].line == "x" * 900
    assert alerts.evictions() == {"m": 6}
    flood(alerts, 12, p_value=0.00005)
    assert "intrusion" not in templates(alerts, "m"), "the flood is as severe"
    summary = alerts.get("m", summary.id)
    assert summary.severity == "critical" and summary.figures.p_value == 0.00001
    assert len(redis.keys("nextchar:alert:*")) == 4


def test_alerts_of_one_key_do_not_evict_those_of_another(redis: Redis, tmp_path: Path) -> None:
    alerts = Alerts(redis, LocalBlobs(tmp_path), Limits(max_bytes=60_000))
    flood(alerts, 5, model="quiet", owner="a")
    for model in ("x", "y", "z"):
        flood(alerts, 20, model=model, owner="b", p_value=0.00001)
    assert len(alerts.all("quiet")) == 5
    evicted = alerts.evictions()
    assert sum(evicted.values()) >= 40 and "quiet" not in evicted
    assert redis.zscore("nextchar:alerts:bytes", "b") <= 60_000
    flood(alerts, 20, model="quiet", owner="a")
    assert len(alerts.all("quiet")) >= 7 and sum(len(alerts.all(model)) for model in "xyz") >= 7
    alerts.move_all("quiet", "new", 1)
    for model in ("new", "x", "y", "z"):
        alerts.delete_all(model)
    assert redis.keys("nextchar:alerts:owner:*") == [] and not redis.exists("nextchar:alerts:bytes")


def test_an_example_has_what_its_line_said(alerts: Alerts) -> None:
    alerts.record([one("a", line_time=5.0, source="web", at=NOW + 1, score=3.0, p_value=0.001)])
    alerts.record([one("b", at=NOW, score=2.0)])
    first, second = alerts.all("m")[0].figures.examples
    assert (first.line, first.line_time, first.source, first.time) == ("a", 5.0, "web", NOW + 1)
    assert (first.score, first.p_value) == (3.0, 0.001)
    assert (second.line, second.line_time, second.source) == ("b", None, "")


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [
        ([400, 400], 2),
        ([200, 200], 1),
        ([250, 249], 1),
        ([250, 250], 2),
        ([2000], 1),
        ([0] * 1200, 3),
        ([], 0),
    ],
)
def test_entries_are_recorded_in_calls_of_about_500_lines(
    alerts: Alerts, redis: Redis, monkeypatch: pytest.MonkeyPatch, sizes: list[int], calls: int
) -> None:
    recorded: list[list[dict[str, object]]] = []
    monkeypatch.setattr(redis, "eval", lambda _, __, batch, *___: recorded.append(json.loads(batch)) or "{}")
    ids = [f"{number}-0" for number in range(len(sizes))]
    lines = [one(entry=entry) for entry, size in zip(ids, sizes, strict=True) for _ in range(size)]
    alerts.record(lines, acknowledge=StreamEntries("s", "g", ids))
    assert len(recorded) == calls
    assert [entry["id"] for batch in recorded for entry in batch] == ids
