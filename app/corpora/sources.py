"""Corpora from files in an object store that the service may read: NEXTCHAR_CORPUS_SOURCES."""

from collections.abc import Sequence

from nextchar.app.http.errors import Forbidden
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.input_files import find_objects, split_url
from nextchar.store.open_blobs import open_blobs


def find_sources(url: str, allowed: Sequence[str]) -> tuple[Blobs, list[str]]:
    """Return a storage and the paths in it of the files at a URL, sorted.

    Args:
        url: such as s3://bucket/logs/*.txt; `*` matches in one folder, `**/` in all below. Without a wildcard
            it is one file, or with a final slash all files of a folder.
        allowed: the beginnings of URLs that may be read.

    Raises:
        Forbidden: the URL begins with none of them (code `source_not_allowed`).
        InvalidInput: it is not the URL of an object store (`invalid_source`).
        NotFound: there is no such file (`source_not_found`).
        Unavailable: the store does not respond.
    """
    if not any(url.startswith(prefix) for prefix in allowed):
        known = f"it begins with none of {', '.join(allowed)}" if allowed else "it names none"
        raise Forbidden(
            f"the service may not read {url!r}: NEXTCHAR_CORPUS_SOURCES decides what it may, and {known}",
            code="source_not_allowed",
            param="url",
        )
    if ".." in url.split("/"):
        raise _invalid(url, "it has ..")
    try:
        files = find_objects(url + "**" if url.endswith("/") else url)
    except ValueError as error:
        raise _invalid(url, str(error)) from None
    if not files:
        raise NotFound(f"there is no file at {url!r}", code="source_not_found", param="url")
    bucket, _ = split_url(url)
    return open_blobs(bucket), [split_url(file.name)[1] for file in files]


def _invalid(url: str, why: str) -> InvalidInput:
    return InvalidInput(f"{url!r} cannot be read: {why}", code="invalid_source", param="url")
