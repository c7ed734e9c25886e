"""Files that a user names by paths, URLs and patterns, on this machine or in object stores."""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import obstore
import re2

from nextchar.models.errors import DomainError, InvalidInput, NotFound
from nextchar.store.object_store import domain_errors_of_store, open_store
from nextchar.store.open_blobs import is_known_url, open_blobs

PIECE_BYTES = 256 << 10
"""Size of one read."""

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class InputFile:
    """A file as it was when it was found: a local path or a URL, its bytes, and its ETag or time."""

    name: str
    bytes: int
    version: str


def find_files(patterns: Sequence[str]) -> list[InputFile]:
    """Return the files that paths, URLs and patterns name, each once. Raises NotFound, InvalidInput."""
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        try:
            files = find_objects(pattern) if is_url(pattern) else _find_local(pattern)
        except (DomainError, ValueError) as error:
            raise InvalidInput(f"{pattern} cannot be read: {error}") from None
        if not files:
            raise NotFound(f"no file matches {pattern}; of a folder name the files, as in logs/*.gz")
        found |= {file.name: file for file in files}
    return list(found.values())


def is_url(name: str) -> bool:
    """Return whether a name is a URL, and not a path, also as a file: URL."""
    return "://" in name and not name.startswith("file://")


def read_from(file: InputFile, start: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` on, in pieces.

    Raises FileNotFoundError, InvalidInput: it has changed since it was found. Unavailable.
    """
    if _stat(file.name) != file:
        raise InvalidInput("it has changed since the run began; choose another output")
    if is_url(file.name):
        bucket, path = split_url(file.name)
        blobs = open_blobs(bucket)
        for at in range(start, file.bytes, PIECE_BYTES):
            yield blobs.read_range(path, at, at + PIECE_BYTES)
    else:
        with Path(file.name).open("rb") as stored:
            stored.seek(start)
            yield from iter(lambda: stored.read(PIECE_BYTES), b"")


def _find_local(pattern: str) -> list[InputFile]:
    path = Path(pattern.removeprefix("file://")).expanduser()
    names = [path] if path.is_file() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 -- of any root
    return [_stat(str(path)) for path in (Path(name).resolve() for name in names) if path.is_file()]


def find_objects(url: str) -> list[InputFile]:
    """Return the files at a URL, sorted: `*`, `?` and `[a-z]` match in one folder, `**/` in all below.

    Takes time linear in the length of each path, whatever the pattern.

    Raises:
        ValueError: the URL names nothing in an object store of a known kind, or its pattern is invalid.
        Unavailable: the store does not work.
    """
    bucket, pattern = split_url(url)
    wildcard = _WILDCARD.search(pattern)
    try:
        if not wildcard:
            return [_stat(url)]
        matches = _compile(pattern)
        folder = pattern[: wildcard.start()].rpartition("/")[0]
        with domain_errors_of_store():
            listed = list(chain.from_iterable(obstore.list(open_store(bucket), folder or None)))
    except FileNotFoundError:
        return []
    return [_object(bucket, o) for o in sorted(listed, key=lambda o: o["path"]) if matches(o["path"])]


def split_url(url: str) -> tuple[str, str]:
    """Return the URL of a bucket, and the path in it. Raises ValueError as `find_objects`.

    >>> split_url("s3://logs/2026/*.gz")
    ('s3://logs', '2026/*.gz')
    """
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    if not (bucket and path and is_known_url(url)):
        raise ValueError("write s3://BUCKET/FOLDER/*.txt, or gs:// or az://")
    return f"{scheme}://{bucket}", path


def _stat(name: str) -> InputFile:
    """Return a file as it is now. Raises FileNotFoundError, Unavailable."""
    if not is_url(name):
        status = Path(name).stat()
        return InputFile(name, status.st_size, str(status.st_mtime_ns))
    bucket, path = split_url(name)
    with domain_errors_of_store():
        return _object(bucket, obstore.head(open_store(bucket), path))


def _object(bucket: str, meta: Any) -> InputFile:
    return InputFile(f"{bucket}/{meta['path']}", meta["size"], meta["e_tag"] or str(meta["last_modified"]))


def _compile(pattern: str) -> Callable[[str], object]:
    try:
        matches: Callable[[str], object] = re2.compile(_expression(pattern), _OPTIONS).fullmatch
    except re2.error:
        raise ValueError("its pattern is invalid") from None
    return matches


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
