import pytest
from redis import Redis

from nextchar.app.logs.ingest import kept_lines
from nextchar.app.logs.ingest.records import Batch, LineMeta, NewLine
from nextchar.app.logs.ingest.stream import IngestStreams


@pytest.fixture
def redis(raw_redis: Redis) -> Redis:
    return raw_redis


@pytest.fixture
def streams(redis: Redis) -> IngestStreams:
    return IngestStreams(redis)


def accepted(streams: IngestStreams, *lines: str, model: str = "m") -> list[str]:
    """Send lines, and return the ids of their entries, which are delivered."""
    streams.accept([Batch(model, [NewLine(line.encode(), LineMeta()) for line in lines])])
    return [entry.id for entry in streams.read(model, "one", max_lines=len(lines))]


def test_a_flagged_line_is_announced_once(streams: IngestStreams) -> None:
    first, second = accepted(streams, "a", "b")
    assert streams.flagged.announce("m", [(first, {"line": "→"})]) == 1
    assert streams.flagged.announce("m", [(first, {"line": "→"}), (second, {"line": "b"})]) == 1
    assert streams.flagged.read("m", after=0, limit=10) == [
        (1, {"line": "→", "entry": first}),
        (2, {"line": "b", "entry": second}),
    ]
    assert streams.flagged.read("m", after=1, limit=10)[0][0] == streams.flagged.last_number("m") == 2
    streams.acknowledge("m", [first, second])
    assert streams.flagged.announce("m", [(first, {})]) == 0  # by a process that was suspended meanwhile


def test_flagged_lines_are_read_from_a_number_on_up_to_a_limit(streams: IngestStreams) -> None:
    assert streams.flagged.last_number("m") == 0 and streams.flagged.read("m", after=0, limit=1) == []
    assert streams.flagged.announce("m", []) == 0
    entries = accepted(streams, "a", "b", "c", "d")
    assert streams.flagged.announce("m", [(entry, {}) for entry in entries]) == 4
    for after, limit, numbers in ((0, 2, [1, 2]), (0, 9, [1, 2, 3, 4]), (2, 1, [3]), (3, 9, [4]), (4, 9, [])):
        assert [n for n, _ in streams.flagged.read("m", after=after, limit=limit)] == numbers
    assert streams.flagged.last_number("m") == 4 == streams.status("m").counts["flagged"]


def test_flagged_lines_of_all_models_are_bounded_in_bytes_and_shared_fairly_and_dropped_with_the_lines(
    streams: IngestStreams, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_lines, "MAX_FLAGGED_BYTES", 300_000)
    quiet = accepted(streams, "a", "b", model="quiet")
    streams.flagged.announce("quiet", [(entry, {"line": "quiet"}) for entry in quiet])
    for model in ("loud", "flood"):
        for _ in range(10):
            entries = accepted(streams, *"abcdefghij", model=model)
            streams.flagged.announce(model, [(entry, {"line": "→" * 1_500}) for entry in entries])
    sizes = streams.flagged.bytes()
    assert sizes.keys() == {"quiet", "loud", "flood"} and sum(sizes.values()) <= 300_000
    assert min(sizes["loud"], sizes["flood"]) > 100_000
    assert len(streams.flagged.read("quiet", after=0, limit=9)) == 2
    assert [n for n, _ in streams.flagged.read("flood", after=0, limit=100)][-1] == 100, "the newest are kept"
    assert all(redis.ttl(f"nextchar:ingest:{model}:flagged") > 0 for model in sizes)
    streams.drop("flood")
    assert "flood" not in streams.flagged.bytes() and streams.flagged.read("flood", after=0, limit=1) == []
    [entry] = accepted(streams, "a", model="flood")
    streams.flagged.announce("flood", [(entry, {})])
    assert streams.flagged.last_number("flood") == 101
