"""Counts of scored lines."""

from typing import Any

import pytest
from redis import Redis

from nextchar.app.scoring.scored_lines import ScoredLines


def test_lines_of_the_last_hour_are_counted_by_all_processes(
    clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [7_200.0]
    monkeypatch.setattr("nextchar.app.scoring.scored_lines.time.time", lambda: now[0])
    redis: Any = Redis.from_url(clean_redis_url, decode_responses=True)
    one, other = ScoredLines(redis), ScoredLines(redis)
    one.add("sshd", 3)
    one.add("sshd", 4)  # within a second: added with the next ones
    other.add("web", 5)
    assert one.last_hour() == {"sshd": 7, "web": 5}
    assert 0 < redis.ttl("nextchar:scored:120") <= 62 * 60
    now[0] += 59 * 60
    other.add("web", 1)
    assert other.last_hour() == {"sshd": 7, "web": 6}
    now[0] += 60
    assert other.last_hour() == {"web": 1}


def test_lines_are_counted_later_while_redis_does_not_respond() -> None:
    unreachable: Any = Redis.from_url("redis://127.0.0.1:1", decode_responses=True)
    lines = ScoredLines(unreachable)
    lines.add("sshd", 3)
    assert lines._pending == {"sshd": 3}
