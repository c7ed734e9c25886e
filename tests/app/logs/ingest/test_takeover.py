"""Several processes share the lines, and what one leaves unfinished is finished by another."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.recording import StreamEntries
from nextchar.app.logs.ingest.kept_lines import lines_key
from nextchar.app.logs.ingest.line_scoring import TURN_S, IngestScoring
from nextchar.app.logs.ingest.records import Batch, LineMeta, NewLine
from nextchar.app.logs.ingest.stream import GROUP, IngestStreams
from nextchar.app.models.engines import Engines
from nextchar.app.rooms import ApiSettings
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.models.saved_model import SavedModel
from nextchar.store.calibrations import Calibrations
from tests.app.fakes import FakeEngine, loaded, publish
from tests.app.service import Service
from tests.every_call import every_call, redis_fails
from tests.waiting import eventually

FLAGGED = "→"


class FailingEngine(FakeEngine):
    """Fails at each batch with a line `bad`."""

    def line_surprisal(self, lines: Sequence[str], **options: Any) -> Any:
        if "bad" in lines:
            raise ZeroDivisionError
        return super().line_surprisal(lines, **options)


class Process:
    """The loop of one process, which runs when it is told."""

    def __init__(
        self,
        service: Service,
        engine: Callable[[SavedModel], FakeEngine] = FakeEngine,
        counted: Callable[[Redis], Redis] = lambda redis: redis,
    ) -> None:
        def load(saved: SavedModel) -> Any:
            return loaded(saved, engine(saved))

        self.streams = IngestStreams(counted(Redis.from_url(service.settings.redis_url)))
        self.engines = Engines(service.models, load, limit_bytes=1 << 30)
        redis = counted(Redis.from_url(service.settings.redis_url, decode_responses=True))
        self.alerts = Alerts(redis, service.blobs)
        self.stopping = threading.Event()
        calibrations = Calibrations(service.blobs)
        self.scoring = IngestScoring(
            self.streams,
            self.engines,
            calibrations,
            self.alerts,
            ScoredLines(Redis.from_url(service.settings.redis_url, decode_responses=True)),
            self.stopping,
            claim_after_s=0.0,
        )

    def add(self, *lines: str, model: str = "fake", owner: str | None = None) -> None:
        self.streams.accept([Batch(model, [NewLine(one.encode(), LineMeta(owner=owner)) for one in lines])])

    def finish(self) -> None:
        """Run rounds until no line waits."""
        eventually(lambda: self.scoring.run() or not self.streams.waiting("fake"))

    @property
    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.streams.status("fake").counts.items() if count}

    @property
    def recorded(self) -> int:
        return sum(alert.figures.count for alert in self.alerts.all("fake"))


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Settings of a process that leaves the scoring to others."""
    return settings.model_copy(update={"ingest_scoring": False})


@pytest.fixture
def start(service: Service) -> Iterator[Callable[..., Process]]:
    """A function that starts one more process."""
    publish(service.models)
    lines = ["ab" * (1 + i % 9) for i in range(120)]
    assert service.http.post("/v1/models/fake/calibrate", json={"lines": lines}).status_code == 201
    started: list[Process] = []

    def start(**options: Any) -> Process:
        started.append(Process(service, **options))
        return started[-1]

    yield start
    for process in started:
        process.engines.close()


def test_lines_of_one_key_wait_for_at_most_one_turn_of_another(
    service: Service, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, turns = [1000.0], list[tuple[str, float]]()
    names = ("a", "b", "c", "d", "quiet")
    for name in names:
        publish(service.models, name=name)
        body = {"lines": ["ab" * (1 + i % 9) for i in range(120)]}
        assert service.http.post(f"/v1/models/{name}/calibrate", json=body).status_code == 201

    class SlowEngine(FakeEngine):
        """Takes a tenth of a second of the clock for a line."""

        def __init__(self, saved: SavedModel) -> None:
            super().__init__(saved)
            self.name = saved.card.name

        def line_surprisal(self, lines: Sequence[str], **options: Any) -> Any:
            now[0] += 0.1 * len(lines)
            turns.append((self.name, now[0]))
            if self.name == "d" and len(turns) > 12:
                process.add("ab", model="quiet", owner="y")
            return super().line_surprisal(lines, **options)

    process = start(engine=SlowEngine)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr("nextchar.app.logs.ingest.line_scoring.time", clock)
    for name in names[:-1]:  # of one key
        process.add(
            *map("".join, itertools.islice(itertools.product("ab", repeat=10), 600)), model=name, owner="x"
        )
    process.add("ab", model="quiet", owner="y")
    eventually(lambda: process.scoring.run() or len(turns) > 40)
    quiet = [place for place, (name, _) in enumerate(turns) if name == "quiet"]
    assert quiet[0] == 1, "after the first batch, whose time was not known before"
    later = [place for place in quiet if place > 12]
    assert later and all(turns[place - 1][0] == "d" for place in later), (
        "right after the turn in which they came"
    )
    assert all(turns[place - 1][1] - turns[place - 2][1] < 2 * TURN_S for place in later)
    assert {name for name, _ in turns[15:40]} == set(names), "the models of a key have turns"


def test_two_processes_score_each_line_once(start: Callable[..., Process]) -> None:
    first, second = start(), start()
    first.scoring.claim_after_s = second.scoring.claim_after_s = 60.0
    first.add(*["ab", FLAGGED] * 1_500)
    threads = [threading.Thread(target=one.finish) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert first.counts == {"accepted": 3_000, "scored": 3_000, "flagged": 1_500}
    assert first.recorded == 1_500


def test_only_the_line_that_cannot_be_scored_is_moved_away(start: Callable[..., Process]) -> None:
    process = start(engine=FailingEngine)
    process.add("ab", "bad", FLAGGED, "bad")
    process.scoring.run()
    assert process.counts == {"accepted": 4, "scored": 2, "flagged": 1, "failed": 2}
    assert process.recorded == 1


@pytest.mark.parametrize("is_after", [False, True], ids=["not sent", "reply lost"])
def test_what_a_process_leaves_at_any_call_of_redis_that_fails_is_finished_by_another(
    start: Callable[..., Process], redis: Redis, is_after: bool
) -> None:
    other = start()
    for call in every_call(more_than=5, meanwhile=redis_fails, is_after=is_after):
        redis.flushall()
        failing = start(counted=call.redis)
        other.add("ab", FLAGGED, "cd", FLAGGED + FLAGGED)
        with contextlib.suppress(RedisConnectionError):
            failing.scoring.run()
        other.finish()
        assert other.counts == {"accepted": 4, "scored": 4, "flagged": 2}, call
        assert other.recorded == 2, call
        flagged = other.streams.flagged.read("fake", after=0, limit=9)
        assert [event["line"] for _, event in flagged] == ["→", "→→"], call


def test_a_process_that_was_suspended_records_nothing_twice(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended, other = start(), start()
    suspended.add("ab", FLAGGED)
    announce = suspended.streams.flagged.announce

    def announce_late(*arguments: Any) -> int:
        other.scoring.run()
        return announce(*arguments)

    monkeypatch.setattr(suspended.streams.flagged, "announce", announce_late)
    suspended.scoring.run()
    assert other.counts == {"accepted": 2, "scored": 2, "flagged": 1}
    assert other.recorded == 1


def test_what_is_dropped_while_it_is_scored_is_not_recorded(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    process.add(FLAGGED)
    announce = process.streams.flagged.announce

    def drop_first(*arguments: Any) -> int:
        process.streams.drop("fake")
        return announce(*arguments)

    monkeypatch.setattr(process.streams.flagged, "announce", drop_first)
    process.scoring.run()
    assert process.counts == {"accepted": 1, "dropped": 1}
    assert process.recorded == 0


def test_a_process_that_stops_takes_no_further_lines(start: Callable[..., Process]) -> None:
    process = start()
    process.add("ab")
    process.stopping.set()
    process.scoring.run()
    assert process.streams.status("fake").consumers == []


def test_lines_that_wait_for_too_long_are_deleted(start: Callable[..., Process]) -> None:
    process = start()
    process.add("ab")
    process.stopping.set()
    process.scoring.retention_s = 0.001
    time.sleep(0.01)  # until the line is older
    process.scoring.run()
    assert process.counts == {"accepted": 1, "expired": 1}


def test_a_stream_of_large_lines_is_read_in_small_batches(start: Callable[..., Process]) -> None:
    process = start()
    process.add(*["a" * 100_000] * 30)
    batches: list[int] = []
    read = process.streams.read

    def counted(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        batches.append(len(found))
        return found

    process.streams.read = counted  # type: ignore[method-assign]
    process.finish()
    assert process.counts["scored"] == 30
    assert max(batches) <= 15


def test_entries_are_acknowledged_with_the_alerts_of_their_lines(start: Callable[..., Process]) -> None:
    process = start()
    process.add(FLAGGED)
    [entry] = process.streams.read("fake", "one", max_lines=1)
    process.alerts.record([], acknowledge=StreamEntries(lines_key("fake"), GROUP, [entry.id]))
    assert process.streams.waiting("fake") == 0


class SlowEngine(FakeEngine):
    """Takes a batch `slow` only once another process has tried to take it over."""

    tried = threading.Event()

    def line_surprisal(
        self, lines: Sequence[str], *, fast: bool = False, check: Callable[[], None] = lambda: None
    ) -> Any:
        deadline = time.monotonic() + 60
        while "slow" in lines and not self.tried.is_set() and time.monotonic() < deadline:
            check()
            time.sleep(0.01)
        return super().line_surprisal(lines, fast=fast, check=check)


def test_a_slow_process_keeps_its_lines(start: Callable[..., Process]) -> None:
    SlowEngine.tried.clear()
    slow, other = start(engine=SlowEngine), start()
    slow.scoring.claim_after_s = 0.2  # it says every 50 ms that it is alive
    slow.add("slow", FLAGGED)
    keep, kept = slow.streams.keep, 0

    def keep_old(model: str, consumer: str, ids: Sequence[str]) -> None:
        """Have others claim the lines just after they have been kept, at an age at which a dead one's go."""
        nonlocal kept
        redis: Any = slow.streams._redis
        redis.xclaim(lines_key(model), GROUP, consumer, 0, list(ids), idle=60_000, justid=True)
        keep(model, consumer, ids)
        assert other.streams.claim(model, "other", idle_s=30.0, max_lines=10) == []
        kept += 1
        if kept == 3:
            SlowEngine.tried.set()

    slow.streams.keep = keep_old  # type: ignore[method-assign]
    slow.scoring.run()
    assert kept >= 3
    assert slow.counts == {"accepted": 2, "scored": 2, "flagged": 1}


def test_what_is_kept_of_a_deleted_version_is_freed_while_its_name_has_others(
    start: Callable[..., Process], service: Service
) -> None:
    process = start()
    publish(service.models)
    for version in (1, 2):
        process.streams.accept([Batch(f"fake@{version}", [NewLine(b"ab", LineMeta())])])
        process.streams.drop(f"fake@{version}")
    service.models.delete("fake@1")
    process.scoring.run()
    assert process.streams.models() == ["fake@2"]
