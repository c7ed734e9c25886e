"""Corpora from files in an object store that the service may read: NEXTCHAR_CORPUS_SOURCES."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import re2

from nextchar.app.errors import Forbidden
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs

_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False
_WILDCARD = re.compile(r"[*?\[]")


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
    parts = urlsplit(url, allow_fragments=False)
    pattern = url.removeprefix(f"{parts.scheme}://{parts.netloc}").lstrip("/")
    if not parts.netloc or not pattern or ".." in pattern.split("/"):
        raise _invalid(url, "write s3://bucket/folder/*.txt")
    if pattern.endswith("/"):
        pattern += "**"
    try:
        blobs = open_blobs(f"{parts.scheme}://{parts.netloc}")
    except ValueError as error:
        raise _invalid(url, str(error)) from None
    if not _WILDCARD.search(pattern):
        paths = [pattern] if blobs.exists(pattern) else []
    else:
        folder = pattern[: _WILDCARD.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
        try:
            matches = re2.compile(_expression(pattern), _RE2_OPTIONS).fullmatch
        except re2.error:
            raise _invalid(url, "its pattern is invalid") from None
        paths = [path for path in blobs.paths(folder) if matches(path)]
    if not paths:
        raise NotFound(f"there is no file at {url!r}", code="source_not_found", param="url")
    return blobs, paths


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern.

    >>> _expression("a/**/*z"), _expression("[!a]?")
    ('a/(?:.*/)?[^/]*z', '[^a][^/]')
    """
    parts = re.findall(r"\*\*/|\*\*|\[!?[^\]/]+\]|.", pattern, re.DOTALL)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part) or _class_or_character(part) for part in parts)


def _class_or_character(part: str) -> str:
    if len(part) == 1:
        return re.escape(part)
    negation = "^" if part[1] == "!" else ""
    inside = part[1 + len(negation) : -1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
    return f"[{negation}{inside}]"


def _invalid(url: str, why: str) -> InvalidInput:
    return InvalidInput(f"{url!r} cannot be read: {why}", code="invalid_source", param="url")
