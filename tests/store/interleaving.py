"""Storage in which something else happens just before a chosen call: every interleaving of two operations."""

from collections.abc import Callable, Iterator
from pathlib import Path

from nextchar.store.blobs import Blobs


class Interrupted(Blobs):
    """Does `meanwhile` once, before its call number `at`, counted from 0 since it was armed."""

    def __init__(
        self, blobs: Blobs, at: int, meanwhile: Callable[[], object], *, is_armed: bool = True
    ) -> None:
        self._blobs, self._left, self._meanwhile = blobs, at, meanwhile
        self.is_armed = is_armed
        self.was_interrupted = False

    def _now(self) -> Blobs:
        if self.is_armed and not self.was_interrupted:
            if self._left == 0:
                self.was_interrupted = True
                self._meanwhile()
            self._left -= 1
        return self._blobs

    def read(self, path: str) -> bytes:
        return self._now().read(path)

    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        return self._now().stream(path, chunk_bytes)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        return self._now().read_range(path, start, end)

    def write(self, path: str, data: bytes | Path) -> None:
        self._now().write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        return self._now().create(path, data)

    def copy(self, source: str, path: str) -> bool:
        return self._now().copy(source, path)

    def exists(self, path: str) -> bool:
        return self._now().exists(path)

    def paths(self, prefix: str) -> list[str]:
        return self._now().paths(prefix)

    def folders(self, prefix: str) -> list[str]:
        return self._now().folders(prefix)

    def delete(self, *paths: str) -> None:
        self._now().delete(*paths)
