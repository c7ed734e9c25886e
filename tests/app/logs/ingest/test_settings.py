from functools import partial

from nextchar.app.logs.ingest.records import _CACHE_S, IngestLimits, IngestSettings
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.every_call import every_call
from tests.store.clock import Clock


def changes(blobs: Blobs, model: str = "m") -> list[tuple[str, str | None]]:
    return [(one.recalibrate, one.changed_by) for one in IngestSettings(blobs).history(model, limit=100)]


def test_of_concurrent_changes_none_is_lost(blobs: Blobs) -> None:
    """Another process changes the settings before each call of the storage that a change makes."""
    for call in every_call(more_than=1):
        blobs.delete(*blobs.paths("ingest_settings"))
        counted = call.blobs(blobs, partial(IngestSettings(blobs).change, "m", "never", by="other"))
        IngestSettings(counted).change("m", "rolling", by="me")
        others = [("never", "other")] if call.has_come else []
        assert sorted(changes(blobs)) == [*others, ("rolling", "me")], call


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


def test_as_many_lines_and_bytes_wait_by_default_as_is_documented() -> None:
    assert IngestLimits() == IngestLimits(max_lines=200_000, max_bytes=64 * 1024**2)
