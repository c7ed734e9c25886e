"""The disk watermark: uploads and jobs are refused while little space is free, before anything fails."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from nextchar.models.errors import StorageFull
from nextchar.store.blobs import Blobs


@dataclass(frozen=True)
class DiskWatermark:
    """Checks the disk of the storage, if it is a folder, and the one on which uploads are spooled.

    Attributes:
        min_free_bytes: the watermark; 0: none.
    """

    blobs: Blobs
    data_dir: Path
    min_free_bytes: int

    def check(self, *, needed_bytes: int = 0) -> None:
        """Check that there is room for this many bytes above the watermark.

        Raises:
            StorageFull: there is not (code `storage_low`).
        """
        free_bytes = self.free_bytes()
        if self.min_free_bytes and free_bytes is not None and free_bytes - needed_bytes < self.min_free_bytes:
            raise StorageFull(
                f"the disk has {free_bytes:,} bytes free and keeps {self.min_free_bytes:,} of them"
                " (NEXTCHAR_MIN_FREE_BYTES); delete corpora or models, or free disk space, and try again",
                code="storage_low",
            )

    def free_bytes(self) -> int | None:
        """Return the free bytes of the fuller disk; None if that of uploads does not exist yet."""
        stored = self.blobs.free_bytes()
        try:
            spooled = shutil.disk_usage(self.data_dir).free
        except OSError:  # the upload itself says why
            return stored
        return spooled if stored is None else min(stored, spooled)
