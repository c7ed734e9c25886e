"""Temporary files without a name, which are deleted when they are closed."""

import tempfile
from pathlib import Path
from typing import IO

from nextchar.store.blobs import domain_errors


def temporary_file(folder: Path | None = None) -> IO[bytes]:
    """Return a new file in a folder, which is made; by default the system's. Raises as Blobs does."""
    with domain_errors():
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
