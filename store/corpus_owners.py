"""Which API keys uploaded a corpus, by the names of the keys.

    corpus_owners/<corpus id>/key-<name>   the Unix time of the key's first upload of these bytes
    corpus_owners/<corpus id>/unknown      the corpus was first uploaded without a recorded owner

The same bytes are one corpus, which can have several owners. A corpus without owners was uploaded without a
key, or before owners were recorded; when a key uploads it again, it gets that key and `unknown` as owners.
"""

import time

from nextchar.store.blobs import Blobs

_UNKNOWN = "unknown"


class CorpusOwners:
    """The owners of the corpora in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def add(self, corpus_id: str, key_name: str, *, is_new: bool) -> None:
        """Record that a key uploaded a corpus; `is_new`: this upload created the corpus."""
        if not is_new and not self._blobs.paths(_folder(corpus_id)):
            self._blobs.create(f"{_folder(corpus_id)}/{_UNKNOWN}", b"")
        self._blobs.create(_path(corpus_id, key_name), str(int(time.time())).encode())

    def uploaded_at(self, corpus_id: str, key_name: str) -> int | None:
        """Return when a key first uploaded a corpus, in Unix seconds; None if it did not; 0 if unknown."""
        try:
            return int(self._blobs.read_record(_path(corpus_id, key_name)))
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
        return self._blobs.paths(_folder(corpus_id)) == [_path(corpus_id, key_name)]

    def remove(self, corpus_id: str, key_name: str) -> None:
        """Remove a key from the owners of a corpus."""
        self._blobs.delete(_path(corpus_id, key_name))

    def remove_all(self, corpus_id: str) -> None:
        """Remove all owners of a corpus."""
        self._blobs.delete(*self._blobs.paths(_folder(corpus_id)))


def _folder(corpus_id: str) -> str:
    return f"corpus_owners/{corpus_id}"


def _path(corpus_id: str, key_name: str) -> str:
    return f"{_folder(corpus_id)}/key-{key_name}"
