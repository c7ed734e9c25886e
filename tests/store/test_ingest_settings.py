import pytest

from store.blobs import Blobs
from store.ingest_records import LineMeta
from store.ingest_settings import IngestSettings
from tests.store.interleaving import Interrupted


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


def test_a_change_by_another_process_is_seen_soon(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = IngestSettings(blobs)
    settings.current("m")
    IngestSettings(blobs).change("m", "rolling", by=None)
    assert settings.current("m") is None
    monkeypatch.setattr("store.ingest_settings._CACHE_S", 0.0)
    current = settings.current("m")
    assert current and current.recalibrate == "rolling"


def test_of_concurrent_changes_none_is_lost(blobs: Blobs) -> None:
    """Another process changes the settings before each call of the storage that a change makes."""
    for at in range(10):
        blobs.delete(*blobs.paths("ingest_settings"))
        other = IngestSettings(blobs)
        interrupted = Interrupted(blobs, at, lambda other=other: other.change("m", "never", by="other"))  # type: ignore[misc]
        IngestSettings(interrupted).change("m", "rolling", by="me")
        if not interrupted.was_interrupted:
            assert at > 1
            return
        assert sorted(changes(blobs)) == [("never", "other"), ("rolling", "me")]


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
