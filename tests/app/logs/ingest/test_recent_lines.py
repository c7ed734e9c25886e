from collections.abc import Iterator

import pytest
from redis import Redis

from nextchar.app.logs.ingest.kept_lines import Neighbors
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.models.anomaly.flag_rule import FlagRule


@pytest.fixture
def streams(clean_redis_url: str) -> Iterator[IngestStreams]:
    with Redis.from_url(clean_redis_url) as redis:
        yield IngestStreams(redis)


def test_the_newest_lines_are_kept(streams: IngestStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.app.logs.ingest.kept_lines.MAX_RECENT_LINES", 4)
    assert streams.recent.read("m") == []
    streams.recent.add("m", [bytes([i]) for i in range(5)])
    assert streams.recent.read("m") == [b"\1", b"\2", b"\3", b"\4"]
    streams.recent.add("m", [b"a", b"b", b"x" * 4001])  # the last is too long
    streams.recent.add("m", [])
    assert streams.recent.read("m") == [b"\3", b"\4", b"a", b"b"]
    assert streams.recent.read("other") == []
    streams.drop("m")
    assert streams.recent.read("m") == []


def test_rules_of_too_many_sources_are_forgotten(
    streams: IngestStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.logs.ingest.kept_lines.MAX_RULES", 1)
    rule = FlagRule(0.01, None, lines=200, unusual=190)
    streams.rules.write("m", {str(i): (rule, Neighbors(None)) for i in range(3)}, "m")
    change = streams.rules.change("m")
    assert change is not None and change.kind == "values"
    assert streams.rules.read("m", "1")[0] == rule.dump()
    streams.rules.write("m", {"new": (rule, Neighbors(None))}, "m")
    assert streams.rules.read("m", "1")[0] is None and streams.rules.read("m", "new")[0] is not None
    streams.rules.forget("m")
    assert streams.rules.change("m") is None


def test_a_flagged_event_has_three_events_before_and_after_it_however_they_come() -> None:
    found: dict[str, dict[str, object]] = {}
    state: bytes | None = None
    for i in range(12):
        neighbors = Neighbors(state)
        neighbors.add(f"line {i}", {5: "alert_1", 6: "alert_2"}.get(i))
        found |= neighbors.changed
        state = neighbors.dump()
    assert found == {
        "alert_1": {
            "before": ["line 2", "line 3", "line 4"],
            "line": "line 5",
            "after": ["line 6", "line 7", "line 8"],
        },
        "alert_2": {
            "before": ["line 3", "line 4", "line 5"],
            "line": "line 6",
            "after": ["line 7", "line 8", "line 9"],
        },
    }
    assert Neighbors(None).changed == {}
