import time

import pytest
from redis import Redis

from nextchar.app.logs.ingest import recalibration
from nextchar.app.logs.ingest.recalibration import LEASE_S, MAX_BATCHES, RollingLines
from nextchar.models.anomaly.line_scores import AlertReference, ObservedScore

LINE = ObservedScore(1.25, 2.5, 1, 0.01)
FLAGGED = ObservedScore(3.0, 9.5, 0, 0.02, AlertReference("alert_1", "a <*> b", "1:<*>", "x"))


@pytest.fixture
def lines(redis: Redis) -> RollingLines:
    return RollingLines(redis)


def test_lines_come_out_as_they_went_in_and_once(lines: RollingLines) -> None:
    assert lines.acquire_lease("m", "c", "me")
    assert lines.take("m", "c", "me") == []
    lines.add("m", "c", [LINE, FLAGGED])
    lines.add("m", "c", [LINE])
    lines.add("m", "other", [FLAGGED])
    assert lines.take("m", "c", "me") == [LINE, FLAGGED, LINE]
    assert lines.take("m", "c", "me") == [] and lines.waiting("m", "c") is None
    waiting = lines.waiting("m", "other")
    assert waiting is not None and waiting.lines == 1


def test_times_are_kept_to_the_millisecond(lines: RollingLines) -> None:
    lines.acquire_lease("m", "c", "me")
    lines.add("m", "c", [ObservedScore(1795563600.12345, 0.1234567, 0, 0.01)])
    assert lines.take("m", "c", "me") == [ObservedScore(1795563600.123, 0.1234567, 0, 0.01)]


def test_waiting_lines_are_counted_since_the_first(lines: RollingLines) -> None:
    assert lines.waiting("m", "c") is None
    before = time.time()
    first = lines.add("m", "c", [LINE] * 3)
    assert first.lines == 3 and before <= first.since <= time.time()
    assert lines.add("m", "c", [LINE] * 4) == recalibration.Waiting(7, first.since) == lines.waiting("m", "c")
    lines.forget("m", "c")
    assert lines.waiting("m", "c") is None
    lines.acquire_lease("m", "c", "me")
    assert lines.take("m", "c", "me") == []


def test_one_process_takes_while_it_has_the_lease(lines: RollingLines, redis: Redis) -> None:
    lines.add("m", "c", [LINE])
    assert lines.take("m", "c", "me") == []
    assert lines.acquire_lease("m", "c", "me") and not lines.acquire_lease("m", "c", "you")
    assert lines.acquire_lease("m", "other", "you")
    assert lines.take("m", "c", "you") == []
    lines.release_lease("m", "c", "you")
    [key] = redis.keys("nextchar:rolling:m:c:lease")
    assert 0 < redis.ttl(key) <= LEASE_S
    lines.release_lease("m", "c", "me")
    assert lines.acquire_lease("m", "c", "you") and lines.take("m", "c", "you") == [LINE]


def test_the_newest_batches_are_kept(lines: RollingLines) -> None:
    for i in range(MAX_BATCHES + 2):
        lines.add("m", "c", [ObservedScore(float(i), 0.0, 0, 0.01)])
    waiting = lines.waiting("m", "c")
    assert waiting and waiting.lines == MAX_BATCHES
    lines.acquire_lease("m", "c", "me")
    times = [line.time for line in lines.take("m", "c", "me")]
    assert times == [float(i) for i in range(2, MAX_BATCHES + 2)]


def test_rebuilds_are_counted_by_model_and_outcome(lines: RollingLines) -> None:
    assert lines.counts() == {}
    for model, outcome in (("m", "rebuilt"), ("m", "rebuilt"), ("m", "held"), ("a b", "rebuilt")):
        lines.count(model, outcome)  # type: ignore[arg-type]
    assert lines.counts() == {("m", "rebuilt"): 2, ("m", "held"): 1, ("a b", "rebuilt"): 1}
