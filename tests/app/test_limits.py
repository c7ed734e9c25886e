"""docs/reference/limits.md says what the code does."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import nextchar.app as app_package
from nextchar.app.http import connections, limits
from nextchar.app.http.event_streams import UNREAD_S
from nextchar.app.http.limits import (
    CALIBRATIONS,
    DOWNLOADS,
    EVALUATIONS,
    EVENTS,
    FEEDS,
    HEALTH,
    IMPORTS,
    INGEST_PARSING,
    INGEST_STORING,
    LARGE_BODIES,
    LONG_PROMPTS,
    LONG_SCORES,
    RECORDS_OF_CLIENT,
    SCHEDULER,
    SHORT_SCORES,
    STREAMED_LINES,
    SUGGESTIONS,
    Limit,
)
from nextchar.app.http.rules import Rules
from nextchar.app.http.threads import PIECE_TIMEOUT_S, Places
from nextchar.app.main import create_app
from nextchar.app.openai import json_lines
from nextchar.app.openai.json_lines import MAX_LINE_BYTES
from nextchar.app.rooms import ApiSettings
from nextchar.models.anomaly import calibration as calibration_format
from nextchar.models.anomaly import stream_scorer
from nextchar.models.errors import Busy
from nextchar.models.runtime import prefill
from nextchar.store import calibrations
from nextchar.store.blobs import MAX_RECORD_BYTES
from nextchar.store.logs import MAX_EXCEPTION_CHARACTERS, MAX_MESSAGE_CHARACTERS
from tests.app.service import Service, error_of
from tests.models.runtime.networks import saved_model

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "limits.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table below a heading, by their first cell."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = next(part for part in section.strip().split("\n\n") if part.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first.strip("`"): rest for first, *rest in cells}


@pytest.fixture
def app(settings: ApiSettings) -> Any:
    return create_app(settings)


def test_every_call_has_its_row_with_the_size_of_its_body_and_its_pool(app: Any) -> None:
    rules = Rules(app.routes)
    stated = rows("Calls")
    actual = {}
    for path, operations in app.openapi()["paths"].items():
        for method in map(str.upper, operations):
            body = rules.find(method, path).body
            assert body
            size = "streamed" if body.max_bytes is None else f"{body.max_bytes >> 20} MiB"
            actual[f"{method} {path}"] = "–" if method == "GET" else size
    assert {call: size for call, (size, _) in stated.items()} == actual
    assert {pool for _, pool in stated.values()} <= rows("Pools").keys()


def test_the_table_of_limits_is_on_the_page() -> None:
    table = [one for one in vars(limits).values() if isinstance(one, Limit)]
    assert rows("Refusals") == {one.name: _row(one) for one in table}


def _row(limit: Limit) -> list[str]:
    running = f"{limit.running}" if limit.running else ""
    if limit.kind == "threads" and limit.waiting is None:
        return [limit.kind, running, "in order", "", ""]
    waiting = "" if limit.waiting is None else f"{limit.waiting}"
    seconds = "" if limit.retry_after_s is None else f"{limit.retry_after_s:g}"
    return [limit.kind, running, waiting, f"{limit.status} `{limit.code}`", seconds]


def test_rooms_name_their_limits_and_build_none() -> None:
    built = re.compile(r"\b(Busy|CapacityLimiter|BoundedSemaphore)\(")
    files = Path(app_package.__path__[0]).rglob("*.py")
    found = {path.name for path in files if built.search(path.read_text())}
    assert found == {"limits.py", "threads.py"}


def test_pools_have_the_stated_sizes() -> None:
    stated = rows("Pools")
    for limit in (LONG_SCORES, LONG_PROMPTS, CALIBRATIONS, EVALUATIONS, IMPORTS, SUGGESTIONS):
        assert stated[limit.name][:2] == [str(limit.running), f"{limit.waiting} per client"], limit.name
    for name, *numbers in (
        ("scores", SHORT_SCORES.running, STREAMED_LINES.running),
        ("ingest", INGEST_PARSING.running, INGEST_STORING.running),
        ("records", anyio.run(_default_threads), RECORDS_OF_CLIENT.running),
        ("parsing JSON bodies over 256 KiB", LARGE_BODIES.running),
        ("health", HEALTH.running),
    ):
        assert [int(n) for n in re.findall(r"\d+", stated[name][0])] == numbers
    for name, limit in (
        ("downloads", DOWNLOADS),
        ("events", EVENTS),
        ("events of streams", FEEDS),
        ("scheduler", SCHEDULER),
    ):
        assert stated[name][0].startswith(f"{limit.running} ")
    assert SCHEDULER.running == prefill.MAX_RUNNING


async def _default_threads() -> float:
    return anyio.to_thread.current_default_thread_limiter().total_tokens


def test_times_and_lengths_are_as_stated() -> None:
    times = rows("Time")
    assert times["a stream that its client does not read"] == [f"{UNREAD_S:.0f} seconds"]
    for row in (
        "a response of which its client reads nothing",
        "a connection without traffic, whose client has vanished",
    ):
        assert times[row] == [f"{connections.UNREAD_S} seconds"]
    header = f"{connections.MAX_HEADER_BYTES >> 10} KiB, {connections.MAX_HEADERS} fields"
    assert rows("Memory")["the header of a request"][0].startswith(header)
    assert times["a download that its client does not read"] == [
        f"{PIECE_TIMEOUT_S:.0f} seconds for each MiB"
    ]
    cached = rows("Memory")["scores of repeated lines that a stream of lines caches"][0]
    assert cached.startswith(f"{stream_scorer.MAX_CACHED_BYTES >> 20} MiB")
    numbers = [int(n) for n in re.findall(r"\d+", rows("Memory")["a calibration"][0])]
    limits = (calibration_format.MAX_BYTES, calibration_format.MAX_BYTES, calibrations.MAX_CACHED_BYTES)
    assert numbers == [one >> 20 for one in limits]
    numbers = [int(n) for n in re.findall(r"\d+", rows("Memory")["a chunk of a batch"][0])]
    megabytes = (json_lines.CHUNK_BYTES, json_lines.CHUNK_RESPONSE_BYTES, MAX_LINE_BYTES)
    assert numbers == [json_lines.CHUNK_REQUESTS, *(one >> 20 for one in megabytes)]
    assert rows("Memory")["a record in the storage"][0].startswith(f"{MAX_RECORD_BYTES >> 20} MiB")
    lengths = rows("Logs and records")["a log record"][0]
    assert f"{MAX_MESSAGE_CHARACTERS:,}" in lengths and f"{MAX_EXCEPTION_CHARACTERS:,}" in lengths


def test_a_place_for_downloads_is_free_again_after_the_answer() -> None:
    places = Places(replace(DOWNLOADS, running=1))
    places.acquire()
    with pytest.raises(Busy, match="1 large downloads are in progress"):
        places.acquire()
    places.release()
    places.acquire()


def test_slow_readers_of_large_files_take_places_not_memory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.http.threads.PIECE_TIMEOUT_S", 1.0)
    large = saved_model(name="large", units=[500])
    service.models.publish(large.card, {name: large.file(name) for name in large.card.files})
    assert large.card.files["model.onnx"].bytes > 2 << 20
    path = "/v1/models/large/files/model.onnx"
    base = str(service.http.base_url)
    readers = [httpx.Client(base_url=base, timeout=30) for _ in range(8)]
    opened = []
    try:
        for reader in readers:  # each reads the header of its answer and no more
            answer = reader.send(reader.build_request("GET", path), stream=True)
            assert answer.status_code == 200
            opened.append(answer)
        refused = service.http.get(path)
        if refused.status_code != 200:  # unless buffers of the system have taken whole files
            assert error_of(refused, 429)["code"] == "downloads_busy"
            assert refused.headers["retry-after"]
        assert service.http.get("/v1/models/large/files/model.json").status_code == 200
    finally:
        for answer in opened:
            answer.close()
        for reader in readers:
            reader.close()
    etag = {"If-None-Match": f'"{large.card.files["model.onnx"].sha256}"'}
    assert service.http.get(path, headers=etag).status_code == 304
