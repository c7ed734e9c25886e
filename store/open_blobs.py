"""Opens the storage at a URL."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nextchar.store.blobs import Blobs
from nextchar.store.local_blobs import LocalBlobs


def is_object_store(url: str) -> bool:
    """Return whether `url` is that of an object store, which several machines can use."""
    return not url.startswith(("file://", "memory://"))


def is_known_url(url: str) -> bool:
    """Return whether `url` is of a kind of object store that can be opened, by its scheme alone."""
    from nextchar.store.object_store import SCHEMES

    return urlsplit(url).scheme in SCHEMES


def open_blobs(url: str) -> Blobs:
    """Return the storage at `url`: file:///folder (made if missing), memory:///, s3://bucket and similar.

    Raises ValueError if an object store cannot be opened with this URL and the environment.
    """
    if url.startswith("file://"):
        return LocalBlobs(Path(url2pathname(urlsplit(url).path)))
    from nextchar.store.object_blobs import ObjectBlobs  # obstore's threads do not survive the worker's fork

    return ObjectBlobs.at(url)
