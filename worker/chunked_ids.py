"""The ids of a text that is too large for a local copy: read from the storage in chunks, as they are needed.

A chunk is a part of the stored text that can be decoded, normalized and masked alone; `CorpusChunks` finds
the chunks in one pass. A chunk is converted to ids when one of its ids is first read, and kept in an unnamed
file of bounded size, from which the least recently used chunk is evicted. Training reads B rows in order, so
each chunk is read once per epoch, as long as B chunks fit into the file.

Ids are the same as those of a local copy, so a job's result is, too.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.runtime.session import Check, no_check
from nextchar.models.text.masks import Masks
from nextchar.models.text.vocabulary import Alphabet, Vocabulary
from nextchar.store.blobs import domain_errors, temporary_file
from nextchar.store.corpora import Corpora

_CHUNKS = 1024  # that fit into the smallest cache; more than the rows of a job
_MAX_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusChunks:
    """The chunks of a stored corpus.

    Attributes:
        cache_bytes: how much of the ids may be on the local disk.
        masks: that are applied to the text; then chunks are whole lines.
        check: called for each chunk, and while it is masked; may raise an exception.
    """

    corpora: Corpora
    corpus: str
    alphabet: Alphabet
    cache_bytes: int
    masks: tuple[str, ...] = ()
    chunk_bytes: int | None = None
    """About the size of a chunk; by default it depends on `cache_bytes`."""
    check: Check = no_check

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield the characters of each chunk, after the offset of its first byte in the stored text."""
        size = self.chunk_bytes or min(_MAX_CHUNK_BYTES, self.cache_bytes // _CHUNKS)
        chunks = self.corpora.chunks(
            self.corpus, self.alphabet, chunk_bytes=size, of_whole_lines=bool(self.masks)
        )
        masked = self._mask()
        for start, text in chunks:
            self.check()
            yield start, masked(text)

    def read(self, start: int, end: int | None) -> str:
        """Return the characters of the chunk between two offsets; None: the end of the text."""
        return self._mask()(self.corpora.chunk(self.corpus, self.alphabet, start, end))

    def _mask(self) -> Callable[[str], str]:
        if not self.masks:
            return lambda text: text
        masks = Masks(self.masks, check=self.check)
        return lambda text: "".join(masks.apply_to_pieces([text]))


class ChunkIndex:
    """Where each chunk of a text is: the offset of its first byte, and the number of its first id."""

    def __init__(self) -> None:
        self._bytes: list[int] = []
        self._ids: list[int] = [0]

    def pieces(self, chunks: Iterable[tuple[int, str]]) -> Iterator[str]:
        """Yield the characters of chunks, in order, and note where they are."""
        for start, text in chunks:
            if text:
                self._bytes.append(start)
                self._ids.append(self._ids[-1] + len(text))
                yield text

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (n,) the offsets of n chunks and (n + 1,) their first ids, and the length of the text."""
        return np.array(self._bytes, np.int64), np.array(self._ids, np.int64)


class ChunkCache:
    """The chunks of a text as ids, some of them in a local file. Safe to use from several threads."""

    def __init__(
        self, chunks: CorpusChunks, index: ChunkIndex, vocabulary: Vocabulary, *, scratch: Path | None = None
    ) -> None:
        """Make an empty cache in the folder `scratch`, by default the system's. Raises StorageFull."""
        self._chunks, self._vocabulary = chunks, vocabulary
        self._offsets, self.first_ids = index.arrays()
        self._dtype = narrowest_type(len(vocabulary))
        self._slot_bytes = max(1, int(np.diff(self.first_ids).max(initial=0))) * self._dtype.itemsize
        slots = max(2, chunks.cache_bytes // self._slot_bytes)
        self._free = list(range(min(slots, len(self._offsets))))
        self._slots: OrderedDict[int, int] = OrderedDict()  # by chunk, the least recently used first
        self._lock = threading.Lock()
        self.loads = 0
        """How many chunks were read from the storage so far."""
        with temporary_file(scratch) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)

    def __len__(self) -> int:
        return int(self.first_ids[-1])

    def read(self, chunk: int, start: int, end: int) -> NDArray[np.integer]:
        """Return ids of a chunk, counted from its first.

        Raises:
            Unavailable: the storage does not work, or the stored text is damaged.
            StorageFull: the local disk is full.
        """
        with self._lock:
            slot = self._slots.get(chunk)
            if slot is None:
                slot = self._load(chunk)
            self._slots.move_to_end(chunk)
            size = self._dtype.itemsize
            with domain_errors():
                data = os.pread(self.descriptor, (end - start) * size, slot * self._slot_bytes + start * size)
        return np.frombuffer(data, self._dtype)

    def _load(self, chunk: int) -> int:
        start = int(self._offsets[chunk])
        end = int(self._offsets[chunk + 1]) if chunk + 1 < len(self._offsets) else None
        ids = self._vocabulary.encode_as(self._dtype, self._chunks.read(start, end))
        if len(ids) != self.first_ids[chunk + 1] - self.first_ids[chunk]:
            raise Unavailable(
                f"the text of {self._chunks.corpus} has changed; upload it again", code="corpus_damaged"
            )
        slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
        try:
            with domain_errors():
                at, data = slot * self._slot_bytes, memoryview(ids.tobytes())
                while data:
                    written = os.pwrite(self.descriptor, data, at)
                    at, data = at + written, data[written:]
        except BaseException:
            self._free.append(slot)
            raise
        self._slots[chunk] = slot
        self.loads += 1
        return slot


@dataclass(frozen=True)
class ChunkedIds:
    """A contiguous part of the ids of a text in chunks; slices are int32 arrays in memory."""

    cache: ChunkCache
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, index: Any) -> NDArray[np.int32]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1
            return self._run(self.start + start, self.start + max(start, stop))
        positions = np.asarray(index, np.int64)
        flat = np.where(positions < 0, positions + len(self), positions).ravel() + self.start
        chunks = np.searchsorted(self.cache.first_ids, flat, side="right") - 1
        result = np.empty(flat.shape, np.int32)
        for chunk in np.unique(chunks).tolist():
            here = np.flatnonzero(chunks == chunk)
            offsets = flat[here] - self.cache.first_ids[chunk]
            first = int(offsets.min())
            result[here] = self.cache.read(chunk, first, int(offsets.max()) + 1)[offsets - first]
        return result.reshape(positions.shape)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[np.int32]:
        assert copy is not False
        return self[:].astype(dtype or np.int32, copy=False)

    def part(self, start: int, end: int) -> "ChunkedIds":
        """Return the ids from `start` to before `end`."""
        return ChunkedIds(self.cache, self.start + start, self.start + end)

    def _run(self, start: int, stop: int) -> NDArray[np.int32]:
        result = np.empty(stop - start, np.int32)
        position = start
        while position < stop:
            chunk = int(np.searchsorted(self.cache.first_ids, position, side="right")) - 1
            first, last = self.cache.first_ids[chunk : chunk + 2].tolist()
            end = min(stop, last)
            result[position - start : end - start] = self.cache.read(chunk, position - first, end - first)
            position = end
        return result


def narrowest_type(size: int) -> np.dtype[Any]:
    """Return the narrowest type for the ids of a vocabulary of `size`."""
    return np.dtype(np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32)
