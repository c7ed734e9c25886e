import threading
import time
from pathlib import Path

import pytest
from redis import Redis

from models.anomaly.alerts import AlertKey, Occurrence, occurrence
from models.anomaly.spans import Span
from models.errors import NotFound
from store.alerts import MAX_EXAMPLES, MAX_INTERVALS, TTL_S, Alerts, Limits, StreamEntries
from store.local_blobs import LocalBlobs
from store.open_blobs import open_blobs

NOW = float(int(time.time()))
GROUP = AlertKey("user <*> failed", "1:<*>")


@pytest.fixture
def redis(clean_redis_url: str) -> Redis:
    return Redis.from_url(clean_redis_url, decode_responses=True)


@pytest.fixture
def alerts(redis: Redis, tmp_path: Path) -> Alerts:
    return Alerts(redis, open_blobs(tmp_path.as_uri()))


def one(
    line: str = "user 1 failed",
    *,
    group: AlertKey = GROUP,
    model: str = "m",
    score: float = 8.0,
    p_value: float = 0.005,
    at: float = NOW,
    line_time: float | None = None,
    source: str = "",
    entry: str | None = None,
    estimated_p: float | None = None,
) -> Occurrence:
    return occurrence(
        group,
        model=model,
        version=1,
        line=line,
        score=score,
        p_value=p_value,
        spans=[Span(5, 6, 7.5, "x")],
        time=at,
        line_time=line_time,
        source=source,
        entry=entry,
        estimated_p=estimated_p,
    )


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


def test_the_examples_are_distinct_and_the_most_anomalous(alerts: Alerts) -> None:
    for score in (1, 9, 3, 9, 7, 5, 2, 8, 1):
        alerts.record([one(f"line {score}", score=float(score))])
    [alert] = alerts.all("m")
    assert [example.score for example in alert.figures.examples] == [9, 8, 7, 5, 3]
    assert len(alert.figures.examples) == MAX_EXAMPLES


@pytest.mark.parametrize("line", ["nul \x00 byte", 'quote " \\ slash /', "\ud800 surrogate", "ⓣ é 😀", ""])
def test_any_line_can_be_an_example(alerts: Alerts, line: str) -> None:
    occurrence = one(line)
    alerts.record([occurrence])
    alerts.record([occurrence])
    [alert] = alerts.all("m")
    assert [example.line for example in alert.figures.examples] == [occurrence.line]


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


def test_a_jump_of_the_clock_back_is_counted(alerts: Alerts) -> None:
    alerts.record([one(at=NOW)])
    alerts.record([one(at=NOW - 86_400)])
    figures = alerts.all("m")[0].figures
    assert (figures.count, figures.counts, figures.last_seen) == (2, (2,), NOW)


def test_entries_are_acknowledged_and_deleted_with_their_lines(alerts: Alerts, redis: Redis) -> None:
    redis.xgroup_create("s", "g", mkstream=True)
    ids = [redis.xadd("s", {"line": str(i)}) for i in range(3)]
    redis.xreadgroup("g", "c", {"s": ">"})
    occurrences = [one(entry=ids[0]), one(entry=ids[0]), one(entry=ids[2])]
    first = alerts.record(occurrences, acknowledge=StreamEntries("s", "g", ids))
    assert (first.occurrences, first.entries) == (3, 3)
    again = alerts.record(occurrences, acknowledge=StreamEntries("s", "g", ids))
    assert (again.occurrences, again.entries) == (0, 0)
    assert alerts.all("m")[0].figures.count == 3
    assert redis.xlen("s") == 0
    assert redis.xpending("s", "g")["pending"] == 0


def test_an_entry_that_was_never_delivered_is_not_counted(alerts: Alerts, redis: Redis) -> None:
    redis.xgroup_create("s", "g", mkstream=True)
    entry = redis.xadd("s", {"line": "x"})
    recorded = alerts.record([one(entry=entry)], acknowledge=StreamEntries("s", "g", [entry]))
    assert (recorded.occurrences, recorded.entries) == (0, 0)
    assert (alerts.all("m"), redis.xlen("s")) == ([], 1)


def test_occurrences_must_name_their_entries(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="not acknowledged"):
        alerts.record([one(entry=None)], acknowledge=StreamEntries("s", "g", ["1-0"]))


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
    counted: list[int] = []

    def score(step: int) -> None:
        own = Alerts(Redis.from_url(clean_redis_url, decode_responses=True), LocalBlobs(tmp_path))
        start.wait()
        total = 0
        for at in range(0, lines, step):
            batch = ids[at : at + step]
            occurrences = [one(f"user {i} failed", entry=entry) for i, entry in enumerate(batch)]
            total += own.record(occurrences, acknowledge=StreamEntries("s", "g", batch)).occurrences
        counted.append(total)

    threads = [threading.Thread(target=score, args=(step,)) for step in (17, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counted) == lines
    assert Alerts(redis, LocalBlobs(tmp_path)).all("m")[0].figures.count == lines
    assert redis.xlen("s") == 0


def test_many_occurrences_are_recorded_in_parts(alerts: Alerts, redis: Redis) -> None:
    assert alerts.record([one(f"user {i} failed") for i in range(5_000)]).occurrences == 5_000
    redis.xgroup_create("s", "g", mkstream=True)
    ids = [redis.xadd("s", {"line": "x"}) for _ in range(3)]
    redis.xreadgroup("g", "c", {"s": ">"})
    occurrences = [one(f"user {i} failed", entry=ids[i % 3]) for i in range(3_000)]
    recorded = alerts.record(occurrences, acknowledge=StreamEntries("s", "g", ids))
    assert (recorded.occurrences, recorded.entries) == (3_000, 3)
    assert alerts.all("m")[0].figures.count == 8_000


def test_ever_new_templates_evict_the_alerts_not_seen_for_longest(redis: Redis, tmp_path: Path) -> None:
    alerts = Alerts(redis, LocalBlobs(tmp_path), Limits(max_alerts=5, max_per_model=3))
    for i in range(4):
        alerts.record([one(group=AlertKey(f"template {i}", ""), at=NOW + i)])
    assert [alert.figures.template for alert in alerts.all("m")] == [f"template {i}" for i in (3, 2, 1)]
    assert alerts.evicted("m") == 1
    for i in range(3):
        alerts.record([one(group=AlertKey(f"template {i}", ""), model="n", at=NOW + 10)])
    assert [alert.figures.template for alert in alerts.all("m")] == ["template 3", "template 2"]
    assert len(redis.keys("nextchar:alert:*")) == 5


def test_an_alert_expires_after_its_last_line(alerts: Alerts, redis: Redis) -> None:
    alerts.record([one(at=NOW - TTL_S - 10, group=AlertKey("old", ""))])
    assert 0 < redis.ttl(f"nextchar:alert:{AlertKey('old', '').alert_id('m')}") <= TTL_S
    alerts.record([one()])
    assert [alert.figures.template for alert in alerts.all("m")] == ["user <*> failed"]


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
