import json
from functools import partial
from typing import Any

import pytest

from nextchar.app.logs.ingest.records import _CACHE_S, Entry, IngestLimits, IngestSettings, LineMeta
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.every_call import every_call
from tests.store.clock import Clock


def changes(blobs: Blobs, model: str = "m") -> list[tuple[str, str | None]]:
    return [(one.recalibrate, one.changed_by) for one in IngestSettings(blobs).history(model, limit=100)]


def test_every_change_is_kept_and_the_newest_holds(blobs: Blobs) -> None:
    settings = IngestSettings(blobs)
    assert settings.current("m") is None
    settings.change("m", "rolling", by="ann")
    settings.change("m", "never", by="bob")
    settings.change("m", "never", by="cem")  # changes nothing
    assert changes(blobs) == [("never", "bob"), ("rolling", "ann")]
    current = settings.current("m")
    assert current and current.recalibrate == "never", "a process sees its own changes at once"
    assert settings.current("other") is None
    assert settings.models() == {"m"}
    assert len(settings.history("m", limit=1)) == 1


def test_of_concurrent_changes_none_is_lost(blobs: Blobs) -> None:
    """Another process changes the settings before each call of the storage that a change makes."""
    for call in every_call(more_than=1):
        blobs.delete(*blobs.paths("ingest_settings"))
        counted = call.blobs(blobs, partial(IngestSettings(blobs).change, "m", "never", by="other"))
        IngestSettings(counted).change("m", "rolling", by="me")
        others = [("never", "other")] if call.has_come else []
        assert sorted(changes(blobs)) == [*others, ("rolling", "me")], call


def test_a_damaged_record_hides_no_other(blobs: Blobs) -> None:
    settings = IngestSettings(blobs)
    settings.change("m", "rolling", by="ann")
    settings.change("m", "never", by="bob")
    blobs.write("ingest_settings/m/00000001.json", b"{")
    current = IngestSettings(blobs).current("m")
    assert current and current.recalibrate == "rolling"
    IngestSettings(blobs).change("m", "never", by="cem")
    assert changes(blobs) == [("never", "cem"), ("rolling", "ann")]


@pytest.mark.parametrize(
    ("stored", "recalibrate"), [(b"{}", None), (b'{"r": true}', "rolling"), (b'{"r": false}', "never")]
)
def test_what_a_request_says_is_stored_with_its_lines(stored: bytes, recalibrate: str | None) -> None:
    meta = LineMeta.load(stored)
    assert meta.recalibrate == recalibrate
    assert meta.dump() == stored.decode()


def test_a_change_by_another_process_is_seen_soon() -> None:
    blobs, clock = open_blobs("memory:///"), Clock()
    ours, theirs = IngestSettings(blobs, clock=clock), IngestSettings(blobs)
    assert ours.current("m") is None
    change = theirs.change("m", "rolling", by="ann")
    clock.now_s += 0.75 * _CACHE_S
    assert ours.current("m") is None
    clock.now_s += 0.25 * _CACHE_S
    assert ours.current("m") == change
    theirs.change("m", "never", by="ann")
    clock.now_s += 0.75 * _CACHE_S
    assert ours.current("m") == change
    clock.now_s += 0.25 * _CACHE_S
    assert (found := ours.current("m")) and found.recalibrate == "never"


def test_a_change_that_changes_nothing_is_the_one_before() -> None:
    blobs = open_blobs("memory:///")
    settings = IngestSettings(blobs)
    first = settings.change("m", "rolling", by="ann")
    assert settings.change("m", "rolling", by="bob") == first
    assert blobs.paths("ingest_settings") == ["ingest_settings/m/00000000.json"]
    settings.change("m", "never", by="bob")
    settings.change("m", "rolling", by="cem")
    assert blobs.paths("ingest_settings")[-1] == "ingest_settings/m/00000002.json"
    assert [one.changed_by for one in settings.history("m", limit=2)] == ["cem", "bob"]


def test_settings_move_to_another_name_with_their_history_unless_that_has_its_own() -> None:
    blobs = open_blobs("memory:///")
    settings = IngestSettings(blobs)
    settings.change("m", "rolling", by="ann")
    settings.change("m", "never", by="bob")
    records = {path.rpartition("/")[2]: blobs.read(path) for path in blobs.paths("ingest_settings/m")}
    for _ in range(2):  # it can be repeated
        settings.move_all("m", "n")
        assert settings.current("m") is None and (now := settings.current("n")) and now.recalibrate == "never"
        assert changes(blobs, "n") == [("never", "bob"), ("rolling", "ann")] and settings.models() == {"n"}
        for name, data in records.items():
            blobs.write(f"ingest_settings/m/{name}", data)
    settings.delete_all("m")
    settings.change("o", "rolling", by="dan")
    settings.move_all("n", "o")
    assert changes(blobs, "o") == [("rolling", "dan")] and settings.models() == {"o"}
    settings.move_all("nothing", "o")
    settings.move_all("o", "p")
    assert changes(blobs, "p") == [("rolling", "dan")]


@pytest.mark.parametrize(
    ("meta", "stored"),
    [
        (LineMeta(), {}),
        (LineMeta(0.0, "", "", 0.0, "never"), {"t": 0.0, "s": "", "c": "", "f": 0.0, "r": False}),
        (LineMeta(1.5, "a", "b", 0.01, "rolling"), {"t": 1.5, "s": "a", "c": "b", "f": 0.01, "r": True}),
        (LineMeta(source="web"), {"s": "web"}),
        (LineMeta(owner="shop"), {"o": "shop"}),
    ],
)  # fmt: skip
def test_metadata_of_a_line_survive_a_round_trip(meta: LineMeta, stored: dict[str, Any]) -> None:
    assert json.loads(meta.dump()) == stored
    assert LineMeta.load(meta.dump().encode()) == meta


def test_the_id_of_an_entry_tells_when_it_came() -> None:
    assert Entry("1795563600123-4", b"", LineMeta()).received_at == 1795563600.123


def test_as_many_lines_and_bytes_wait_by_default_as_is_documented() -> None:
    assert IngestLimits() == IngestLimits(max_lines=200_000, max_bytes=64 * 1024**2)
