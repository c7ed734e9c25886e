"""Names of corpora and their versions, and which API keys uploaded a corpus.

    corpus_names/<name>                    the id of version 1
    corpus_versions/<name>/<n>             the id of version n, from 2 on
    `deleted` instead of an id             this version is deleted, and others are not: its number is not
                                           given again
    corpus_owners/<corpus id>/key-<name>   the Unix time of the key's first upload of these bytes
    corpus_owners/<corpus id>/unknown      the corpus was first uploaded without a recorded owner

Another text under a name is its next version. The bare name means the newest version. Names are free again
once all their versions are deleted.

The same bytes are one corpus, which can have several owners. A corpus without owners was uploaded without a
key, or before owners were recorded; when a key uploads it again, it gets that key and `unknown` as owners.
"""

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nextchar.models.errors import InvalidInput
from nextchar.store.blobs import Blobs
from nextchar.store.ids import check_name, is_id

_DELETED = b"deleted"
_MAX_DIGITS = 9


@dataclass(frozen=True)
class CorpusNames:
    """The names in one storage."""

    blobs: Blobs

    def resolve(self, reference: str) -> str | None:
        """Return the id that `name` or `name@version` stands for; None if there is none."""
        name, at, number = reference.partition("@")
        try:
            check_name(name)
        except InvalidInput:
            return None
        if at:
            is_number = re.fullmatch(rf"[1-9][0-9]{{0,{_MAX_DIGITS - 1}}}", number)
            return self._target(name, int(number)) if is_number else None
        targets = (self._target(name, version) for version in reversed(self._numbers(name)))
        return next(filter(None, targets), None)

    def refers_to(self, reference: str, corpus_id: str) -> bool:
        """Return whether a reference that `all` has returned still stands for a corpus."""
        return self._target(*split_reference(reference)) == corpus_id

    def next_version(self, name: str, corpus_id: str) -> int:
        """Return the version that `give` would give a corpus now."""
        return self._next(name, corpus_id)[0]

    def assign(self, name: str, corpus_id: str) -> int:
        """Give a corpus a name and return the version: the newest one if it is this corpus, or the next."""
        while True:
            version, is_taken = self._next(name, corpus_id)
            path = _path(name, version)
            if is_taken and self._target(name, version) == corpus_id:
                return version
            if is_taken:  # the record of the only version is damaged: replace it
                self.blobs.write(path, corpus_id.encode())
                return version
            if self.blobs.create(path, corpus_id.encode()):
                return version

    def all(self, is_included: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
        """Return references with the ids of their corpora: `name` for version 1, `name@version` for others.

        Only those for which `is_included` is true, or all.
        """
        paths = self.blobs.paths("corpus_names") + self.blobs.paths("corpus_versions")
        found = {}
        for reference in filter(is_included, map(_reference_of, paths)):
            name, version = split_reference(reference)
            if target := self._target(name, version):
                found[reference] = target
        return found

    def remove(self, references: Collection[str]) -> None:
        """Remove references that `all` has returned. Raises as Blobs does."""
        for name in {split_reference(reference)[0] for reference in references}:
            removed = {v for n, v in map(split_reference, references) if n == name}
            paths = {version: _path(name, version) for version in self._numbers(name)}
            if any(self._target(name, version) for version in paths.keys() - removed):
                for version in removed & paths.keys():
                    self.blobs.write(paths[version], _DELETED)
            else:
                self.blobs.delete(*paths.values())

    def _next(self, name: str, corpus_id: str) -> tuple[int, bool]:
        """Return the version for a corpus, and whether there is a record of it already."""
        numbers = self._numbers(name)
        if not numbers:
            return 1, False
        newest = max((v for v in numbers if self._has_corpus(name, v)), default=None)
        if newest is None and numbers == [1]:
            return 1, True
        if newest is not None and self._target(name, newest) == corpus_id:
            return newest, True
        return numbers[-1] + 1, False

    def _has_corpus(self, name: str, version: int) -> bool:
        target = self._target(name, version)
        return target is not None and self.blobs.exists(f"corpora/{target}/corpus.json")

    def _numbers(self, name: str) -> list[int]:
        """Return the versions that have a record, of deleted ones, too."""
        later = [int(p.rpartition("/")[2]) for p in self.blobs.paths(f"corpus_versions/{name}")]
        return ([1] if self.blobs.exists(_path(name, 1)) else []) + sorted(later)

    def _target(self, name: str, version: int) -> str | None:
        """Return the id in a record; None if it is missing, deleted or damaged."""
        try:
            target = self.blobs.read_record(_path(name, version)).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return target if is_id("corpus", target) else None


def reference_of(name: str, version: int) -> str:
    """Return `name` for version 1, else `name@version`.

    >>> reference_of("log", 1), reference_of("log", 2)
    ('log', 'log@2')
    """
    return name if version == 1 else f"{name}@{version}"


def split_reference(reference: str) -> tuple[str, int]:
    """Return the name and version of what `reference_of` returned.

    >>> split_reference("log"), split_reference("log@2")
    (('log', 1), ('log', 2))
    """
    name, _, version = reference.partition("@")
    return name, int(version or 1)


def _path(name: str, version: int) -> str:
    return f"corpus_names/{name}" if version == 1 else f"corpus_versions/{name}/{version:09}"


def _reference_of(path: str) -> str:
    folder, name, *version = path.split("/")
    return reference_of(name, int(version[0]) if folder == "corpus_versions" else 1)


_UNKNOWN = "unknown"


class CorpusOwners:
    """The owners of the corpora in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def add(self, corpus_id: str, key_name: str, *, is_new: bool) -> None:
        """Record that a key uploaded a corpus; `is_new`: this upload created the corpus."""
        if not is_new and not self._blobs.paths(_owners_folder(corpus_id)):
            self._blobs.create(f"{_owners_folder(corpus_id)}/{_UNKNOWN}", b"")
        self._blobs.create(_owner_path(corpus_id, key_name), str(int(time.time())).encode())

    def uploaded_at(self, corpus_id: str, key_name: str) -> int | None:
        """Return when a key first uploaded a corpus, in Unix seconds; None if it did not; 0 if unknown."""
        try:
            return int(self._blobs.read_record(_owner_path(corpus_id, key_name)))
        except FileNotFoundError:
            return None
        except ValueError:
            return 0

    def corpora_of(self, key_name: str) -> set[str]:
        """Return the ids of the corpora that a key uploaded."""
        parts = (path.split("/") for path in self._blobs.paths("corpus_owners"))
        return {corpus_id for _, corpus_id, owner in parts if owner == f"key-{key_name}"}

    def is_only(self, corpus_id: str, key_name: str) -> bool:
        """Return whether a key is the only owner of a corpus."""
        return self._blobs.paths(_owners_folder(corpus_id)) == [_owner_path(corpus_id, key_name)]

    def remove(self, corpus_id: str, key_name: str) -> None:
        """Remove a key from the owners of a corpus."""
        self._blobs.delete(_owner_path(corpus_id, key_name))

    def remove_all(self, corpus_id: str) -> None:
        """Remove all owners of a corpus."""
        self._blobs.delete(*self._blobs.paths(_owners_folder(corpus_id)))


def _owners_folder(corpus_id: str) -> str:
    return f"corpus_owners/{corpus_id}"


def _owner_path(corpus_id: str, key_name: str) -> str:
    return f"{_owners_folder(corpus_id)}/key-{key_name}"
