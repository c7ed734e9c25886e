"""Counts are added to lines without training: every process ranks by them, and they decay."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.acceptance.accepted_lines import AcceptedLines
from nextchar.app.models.engines import load_by
from nextchar.app.rooms import ApiSettings
from nextchar.app.suggestions import counts
from nextchar.app.suggestions.counts import CountedSuggesters, LineCount, LineCounts, SourceCounts
from nextchar.models.errors import Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import error_of, serving_real
from tests.app.suggestions.test_routes import NAMES, suggested
from tests.models.runtime.networks import saved_model
from tests.waiting import eventually

COUNTS = "/v1/models/cities/counts"
DAY_S = 86_400


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> ApiSettings:
    return ApiSettings(
        data_dir=tmp_path_factory.mktemp("api"),
        redis_url=redis_url,
        min_free_bytes=0,
        count_accepted="cities",
    )


@pytest.fixture(scope="module")
def serving(settings: ApiSettings) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two processes' worth of the API on one storage."""
    text = "".join(f"{name}\n" * count for name, count in NAMES.items())
    model = saved_model(name="cities", kind="records", int8=True, mixed_text=text, lines=NAMES)
    prose = saved_model(name="prose", kind="text")
    with serving_real(settings, model, prose) as one, serving_real(settings) as other:
        yield one, other


@pytest.fixture
def http(serving: tuple[httpx.Client, httpx.Client]) -> Iterator[httpx.Client]:
    yield serving[0]
    serving[0].delete(COUNTS)


def put(http: httpx.Client, *lines: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = http.put(COUNTS, json={"lines": lines} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def found(http: httpx.Client, prefix: str = "lo") -> dict[str, int]:
    return {one["text"]: one["count"] for one in suggested(http, prefix)}


def test_added_counts_rank_at_once_in_all_processes(
    serving: tuple[httpx.Client, httpx.Client], http: httpx.Client
) -> None:
    before = [one["text"] for one in suggested(http, "lo", limit=3)]
    last = before[-1]
    assert found(serving[1])
    put(http, {"text": last.upper(), "count": 10_000})
    assert suggested(http, "lo")[0]["text"] == last and found(http)[last] == NAMES[last] + 10_000
    eventually(lambda: suggested(serving[1], "lo")[0]["text"] == last)
    assert http.delete(COUNTS).json()["deleted"] == 1
    assert found(http)[last] == NAMES[last]
    eventually(lambda: found(serving[1])[last] == NAMES[last])


def test_lines_that_the_corpus_lacks_are_known_while_they_have_counts(http: httpx.Client) -> None:
    put(http, {"text": "Lowestoft ж", "count": 2}, {"text": "Lowestoft ж"})
    (one,) = suggested(http, "lowes")
    assert (one["text"], one["count"], one["exists"]) == ("Lowestoft ж", 3, True)
    assert [one["text"] for one in suggested(http, "lowst")] == ["Lowestoft ж"]
    put(http, {"text": "Lowestoft ж"}, add_lines=False)
    assert suggested(http, "lowes") == []


def test_each_source_replaces_its_own_counts_and_half_is_left_after_a_half_life(http: httpx.Client) -> None:
    ago = {"at": time.time() - 10 * DAY_S}
    orders = put(http, {"text": "london", "count": 8} | ago, source="orders", half_life_days=5)
    assert (orders["source"], orders["half_life_days"], orders["lines"]) == ("orders", 5, 1)
    put(http, {"text": "london", "count": 100} | ago, source="visits", half_life_days=None)
    assert found(http)["london"] == NAMES["london"] + 102
    put(http, {"text": "paris", "count": 1}, {"text": "lodz", "count": 4}, source="visits")
    shown = http.get(COUNTS, params={"limit": 2}).json()
    assert [(one["text"], round(one["count"], 2)) for one in shown["lines"]] == [("lodz", 4), ("london", 2)]
    assert shown["has_more"] and [one["source"] for one in shown["sources"]] == ["orders", "visits"]
    assert len(http.get(COUNTS, params={"source": "visits"}).json()["lines"]) == 2
    assert http.delete(COUNTS, params={"source": "visits"}).json()["deleted"] == 2
    assert found(http)["lodz"] == 1 and found(http)["london"] == NAMES["london"] + 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lines": []}, "lines"),
        ({"lines": [{"text": "a", "count": -1}]}, "lines.0.count"),
        ({"lines": [{"text": "a\nb"}]}, "lines.0.text"),
        ({"lines": [{"text": " "}]}, "lines.0.text"),
        ({"lines": [{"text": "x" * 1001}]}, "lines.0.text"),
        ({"lines": [{"text": "a", "at": "today"}]}, "lines.0.at"),
        ({"lines": [{"text": "a"}], "half_life_days": 0}, "half_life_days"),
        ({"lines": [{"text": "a"}], "source": "a/b"}, "source"),
    ],
)
def test_bad_counts_are_refused(http: httpx.Client, body: Any, param: str) -> None:
    assert error_of(http.put(COUNTS, json=body), 422)["param"] == param
    assert http.get(COUNTS).json()["sources"] == []


def test_too_many_counts_and_models_without_lines_are_refused(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "MAX_LINES", 3)
    put(http, {"text": "a"}, {"text": "b"}, source="one")
    body = {"source": "two", "lines": [{"text": "c"}, {"text": "d"}]}
    assert error_of(http.put(COUNTS, json=body), 422)["code"] == "too_many_counts"
    put(http, {"text": "c"}, {"text": "d"}, {"text": "e"}, source="one")
    prose = http.put("/v1/models/prose/counts", json=body)
    assert error_of(prose, 422)["code"] == "no_lines"
    assert error_of(http.put("/v1/models/nowhere/counts", json=body), 404)["code"] == "model_not_found"


def test_accepted_lines_are_counted_but_no_other_text(
    http: httpx.Client, settings: ApiSettings, redis_url: str
) -> None:
    def accept(number: int, text: str) -> dict[str, Any]:
        names = {"id": f"{number}", "suggestion_id": f"sug_{number}", "model": "cities@1"}
        return names | {"type": "accepted", "text": text}

    events = [*(accept(n, "Lodz") for n in range(50)), accept(98, "my secret"), accept(99, "x" * 201)]
    assert http.post("/v1/events", json={"events": events}).json()["accepted"] == 52
    assert http.post("/v1/events", json={"events": events}).json()["accepted"] == 0
    blobs = open_blobs(settings.blobs_url)
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        redis.delete("nextchar:acceptance:lines_lease")  # of the service
        stored = LineCounts(blobs)
        later = AcceptedLines(
            redis, ["cities"], 5.0, stored, Models(blobs), clock=lambda: time.time() + 10 * DAY_S
        )
        later.run()
        (source,) = stored.read("cities")
        assert [(line.text, round(line.number, 1)) for line in source.lines] == [("Lodz", 12.5)]
        later.run()
        assert stored.read("cities") == [source], "nothing has changed"
        eventually(lambda: found(http)["lodz"] > 10)
        assert http.delete(COUNTS, params={"source": "accepted"}).json()["deleted"] == 1
        later.run()
        assert stored.read("cities") == []


def put_one(
    stored: LineCounts, name: str, source: str = "default", number: float = 1.0, at: float = 5.0
) -> None:
    lines = (LineCount("a", number, at),)
    stored.put(
        SourceCounts(
            model=name, source=source, half_life_days=1.0, updated_at=at, updated_by=None, lines=lines
        )
    )


def test_a_later_change_has_a_greater_number_and_the_files_before_it_are_deleted() -> None:
    blobs = open_blobs("memory:///")
    stored, other = LineCounts(blobs), LineCounts(blobs)
    for number in (1.0, 2.0, 3.0):  # the clock stands still
        put_one(stored, "m", number=number)
        assert [one.lines[0].number for one in other.read("m")] == [number]
        assert len(blobs.paths(counts.FOLDER)) == 1
    assert other.delete("m", "default") == 1 and stored.read("m") == []
    put_one(stored, "m", number=4.0, at=6.0)
    assert [one.lines[0].number for one in other.read("m")] == [4.0]


def test_counts_follow_the_last_version_of_a_name() -> None:
    blobs = open_blobs("memory:///")
    models, stored = Models(blobs), LineCounts(blobs)
    for name in ("old", "gone", "kept"):
        model = saved_model(name=name, kind="records")
        models.publish(model.card, {name: model.file(name) for name in model.card.files})
        put_one(stored, name)
    models.delete("gone@1")
    models.rename("old@1", "new")
    assert stored.sweep(models) == 2 and stored.sweep(models) == 0
    assert [stored.read(name) == [] for name in ("old", "gone", "kept", "new")] == [True, True, False, False]


class Failing(LineCounts):
    """A storage that does not respond after the first look."""

    looks = 0

    def read(self, name: str) -> list[SourceCounts]:
        self.looks += 1
        if self.looks > 1:
            raise Unavailable("the storage does not respond", code="storage_unavailable")
        return super().read(name)


def test_known_counts_are_used_while_the_storage_does_not_respond_and_they_decay(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "DECAY_S", -1.0)
    blobs: Blobs = open_blobs("memory:///")
    loaded = load_by(ApiSettings())(saved_model(name="m", kind="records", int8=True, lines={"a": 1, "b": 2}))
    now = 0.0
    stored = Failing(blobs)
    put_one(stored, "m", number=8.0, at=0.0)
    stored.looks = 0
    suggesters = CountedSuggesters(stored, clock=lambda: now)

    def count() -> int | None:
        suggesters.look_again("m")
        lines = asyncio.run(suggesters.get(loaded)).lines
        assert lines
        return lines.count_of("a")

    try:
        assert count() == 9
        now = 2.0 * DAY_S
        assert count() == 3
    finally:
        suggesters.close()
        loaded.engine.close()
