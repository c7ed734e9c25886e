"""How much room an upload needs, and on which disk."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nextchar.app.http.limits import DiskWatermark
from nextchar.models.errors import StorageFull


def watermark(
    monkeypatch: pytest.MonkeyPatch, *, min_free: int, stored: int | None, spooled: int | None
) -> DiskWatermark:
    """A watermark on a storage and a spool with so many bytes free; None: no folder."""

    def disk_usage(path: Path) -> SimpleNamespace:
        assert path == Path("spool")
        if spooled is None:
            raise FileNotFoundError
        return SimpleNamespace(free=spooled)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    blobs: Any = SimpleNamespace(free_bytes=lambda: stored)
    return DiskWatermark(blobs, Path("spool"), min_free)


def test_just_the_watermark_may_stay_free(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = watermark(monkeypatch, min_free=1000, stored=1000, spooled=1000)
    exact.check()
    with pytest.raises(
        StorageFull, match=r"has 1,000 bytes free and keeps 1,000 .*NEXTCHAR_MIN_FREE"
    ) as full:
        exact.check(needed_bytes=1)
    assert full.value.code == "storage_low"
    larger = watermark(monkeypatch, min_free=1000, stored=1500, spooled=1500)
    larger.check(needed_bytes=500)
    with pytest.raises(StorageFull):
        larger.check(needed_bytes=501)


def test_without_a_watermark_any_upload_may_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    watermark(monkeypatch, min_free=0, stored=10, spooled=10).check(needed_bytes=1 << 60)


@pytest.mark.parametrize(
    ("stored", "spooled", "free"),
    [(5, 9, 5), (9, 5, 5), (None, 7, 7), (8, None, 8), (None, None, None)],
)
def test_the_fuller_disk_counts(
    monkeypatch: pytest.MonkeyPatch, stored: int | None, spooled: int | None, free: int | None
) -> None:
    watched = watermark(monkeypatch, min_free=6, stored=stored, spooled=spooled)
    assert watched.free_bytes() == free
    if free == 5:
        with pytest.raises(StorageFull):
            watched.check()
    else:
        watched.check()  # an object store has no end
