from collections.abc import Iterator

import pytest
from redis import Redis

from nextchar.app.logs.ingest.kept_lines import RecentLine
from nextchar.app.logs.ingest.stream import IngestStreams


@pytest.fixture
def streams(clean_redis_url: str) -> Iterator[IngestStreams]:
    with Redis.from_url(clean_redis_url) as redis:
        yield IngestStreams(redis)


def test_the_newest_lines_are_kept_with_what_the_newest_calibration_said_of_them(
    streams: IngestStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.logs.ingest.kept_lines.MAX_RECENT_LINES", 4)
    assert streams.recent.read("m") == [] and streams.recent.unusual("m") == (0, 0)
    streams.recent.add("m", [RecentLine(bytes([i]), "m@1 default 7", True) for i in range(5)])
    assert streams.recent.read("m") == [b"\1", b"\2", b"\3", b"\4"] and streams.recent.unusual("m") == (4, 4)
    streams.recent.add(
        "m", [RecentLine(b"a", "m@1 default 8", True), RecentLine(b"b", "m@1 default 8", False)]
    )
    streams.recent.add("m", [RecentLine(b"x" * 4001, "m@1 default 9", True)])  # too long
    streams.recent.add("m", [])
    assert streams.recent.read("m") == [b"\3", b"\4", b"a", b"b"] and streams.recent.unusual("m") == (2, 1)
    assert streams.recent.read("other") == []
    streams.drop("m")
    assert streams.recent.read("m") == [] and streams.recent.unusual("m") == (0, 0)
