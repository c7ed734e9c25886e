import pytest
from redis import Redis

from nextchar.app.logs.ingest.recalibration import LEASE_S, RollingLines
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
