"""Batches: files of requests that workers answer in the background, and how far each is.

    batches/<id>/<sequence>.json                the whole record after its <sequence>-th transition
    batch_chunks/<id>/<chunk>.input.jsonl       some requests, as they are in the file
    batch_chunks/<id>/<chunk>.answers           their answers, one line each in the same order; made once

A chunk is answered when its answers are there. Of several processes that answer the same chunk the first to
create the object has answered it, so each request is answered once, whichever process is killed. A batch has
a lease and progress in Redis, as a job has (`nextchar.store.live`); losing them loses only time.
"""

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import Field
from redis import Redis

from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.models.text.lines import split_lines
from nextchar.store.blobs import Blobs
from nextchar.store.history import History, ImmutableRecord
from nextchar.store.ids import is_id, new_id
from nextchar.store.live import Live

COMPLETED, FAILED = b"+", b"-"
"""The first byte of an answer: whether the request succeeded."""

MAX_INPUT_BYTES = 32 << 20
"""Maximum size of the requests of a chunk. A line has at most 16 MiB, and a chunk of several lines 1 MiB."""


class BatchStatus(StrEnum):
    """The state of a batch, as OpenAI names them."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
    ),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    # To itself: when it is decided which chunks its files have.
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED}),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}


class BatchError(ImmutableRecord):
    """What is wrong with the input file, or with a file of responses."""

    code: str
    message: str
    line: int | None = Field(None, description="The number of the line in the file, from 1.")
    param: str | None = None


class Batch(ImmutableRecord):
    """One batch as of its `sequence`-th transition. Times are Unix seconds, UTC."""

    id: str
    sequence: int = 0
    status: BatchStatus = BatchStatus.VALIDATING
    endpoint: str
    input_file: str  # the id of a corpus
    completion_window: str
    metadata: dict[str, str] | None = None
    key_name: str | None = None  # of the API key that created it, with its patterns and quota at that time
    key_models: tuple[str, ...] = ()
    key_max_corpus_bytes: int | None = None
    created_at: int
    expires_at: int
    moved_at: dict[BatchStatus, int] = Field(default_factory=dict)  # when it first entered each other state
    chunk_sizes: tuple[int, ...] = ()  # the requests in each chunk
    is_expired: bool = False  # it is finalized because its time is over
    included: tuple[int, ...] | None = None  # the chunks whose answers its files have, once that is decided
    completed: int = 0  # of the requests, when it has ended
    failed: int = 0
    errors: tuple[BatchError, ...] = ()
    output_file: str | None = None
    error_file: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether no transition can follow."""
        return not TRANSITIONS[self.status]

    @property
    def requests(self) -> int:
        """The requests in its file, once it is validated."""
        return sum(self.chunk_sizes)

    @property
    def chunk_paths(self) -> list[str]:
        """The objects that it needs until it has ended: the requests, and the answers that its files have."""
        requests = [_chunk_path(self.id, chunk, "input.jsonl") for chunk in range(len(self.chunk_sizes))]
        return requests + [_chunk_path(self.id, chunk, "answers") for chunk in self.included or ()]

    @property
    def ended_at(self) -> int | None:
        """When it ended, if it has."""
        return self.moved_at.get(self.status) if self.has_ended else None


class Batches:
    """The batches in one storage and Redis (with `decode_responses=True`)."""

    def __init__(self, blobs: Blobs, redis: Redis) -> None:
        self.blobs = blobs
        self.live = Live(redis)
        self._history = History(blobs, "batches", Batch, digits=6, damaged="batch_damaged")

    # Records

    def create(self, **fields: Any) -> Batch:
        """Record a new batch; its `id` may be given. Raises Conflict: there is one with this id."""
        batch = Batch(**{"id": new_id("batch")} | fields)
        if not self._history.create(0, batch, batch.id):
            raise Conflict(f"batch {batch.id} already exists", code="batch_exists")
        return batch

    def get(self, batch_id: str) -> Batch:
        """Return the newest record of a batch.

        Raises:
            NotFound: there is no such batch (code `batch_not_found`).
            Unavailable: the record is damaged (code `batch_damaged`).
        """
        paths = self._history.paths(batch_id) if is_id("batch", batch_id) else []
        if not paths:
            raise no_such_batch(batch_id)
        try:
            return self._history.read(paths[-1])
        except FileNotFoundError:
            raise no_such_batch(batch_id) from None

    def all(self) -> list[Batch]:
        """Return all batches, newest first, except those with a damaged record."""
        found = map(self._history.find, reversed(self._history.newest_paths()))
        return [batch for batch in found if batch]

    def unfinished(self) -> list[Batch]:
        """Return the batches that have not ended, oldest first."""
        return [batch for batch in reversed(self.all()) if not batch.has_ended]

    def move(self, batch: Batch, to: BatchStatus, **changes: Any) -> Batch:
        """Write the transition of `batch`, as the caller read it, to state `to`; return the new record.

        Raises:
            Conflict: there is no such transition (the code is the state, as in `batch_completed`), or another
                process has moved the batch since the caller read it (`batch_moved`).
        """
        if to not in TRANSITIONS[batch.status]:
            raise Conflict(
                f"batch {batch.id} is {batch.status} and cannot become {to}", code=f"batch_{batch.status}"
            )
        moved_at = {to: int(time.time())} | batch.moved_at
        update = {"sequence": batch.sequence + 1, "status": to, "moved_at": moved_at}
        moved = batch.model_copy(update=update | changes)
        if not self._history.append(moved.sequence, moved, batch.id):
            raise Conflict(f"batch {batch.id} was changed meanwhile; read it again", code="batch_moved")
        return moved

    def delete(self, batch: Batch) -> None:
        """Delete a batch that has ended, with what is left of its chunks; its files stay."""
        self.delete_chunks(batch.id)
        self._history.delete(batch.sequence, batch.id)

    # Chunks

    def write_input(self, batch_id: str, chunk: int, lines: Iterable[bytes]) -> None:
        """Write the requests of a chunk, lines without newlines. Writing it again changes nothing."""
        self.blobs.write(_chunk_path(batch_id, chunk, "input.jsonl"), b"".join(b"%s\n" % x for x in lines))

    def read_input(self, batch_id: str, chunk: int, *, count: int) -> list[bytes]:
        """Return the `count` requests of a chunk.

        Raises:
            FileNotFoundError: the batch has ended meanwhile, or the chunk is lost.
            Unavailable: the chunk has another number of them, or is larger than any (code `batch_damaged`).
        """
        path = _chunk_path(batch_id, chunk, "input.jsonl")
        data = self.blobs.read_record(path, max_bytes=MAX_INPUT_BYTES)
        lines = data.split(b"\n")[:-1]
        if len(data) > MAX_INPUT_BYTES or len(lines) != count:
            raise Unavailable(f"{path} is damaged; cancel the batch and create another", code="batch_damaged")
        return lines

    def create_answers(self, batch: Batch, chunk: int, answers: Iterable[bytes]) -> bool:
        """Write the answers of a chunk, unless another process was faster; return whether they were written.

        Each begins with COMPLETED or FAILED and has no newline.
        """
        data = b"".join(b"%s\n" % answer for answer in answers)
        return self.blobs.create(_chunk_path(batch.id, chunk, "answers"), data)

    def read_answers(self, batch_id: str, chunk: int) -> list[bytes]:
        """Return the answers of a chunk, as they were written. Raises FileNotFoundError."""
        return split_lines(self.blobs.read(_chunk_path(batch_id, chunk, "answers")))

    def answered_chunks(self, batch_id: str) -> list[int]:
        """Return the chunks that have answers, in order."""
        paths = self.blobs.paths(f"batch_chunks/{batch_id}")
        return [int(p.rpartition("/")[2].split(".")[0]) for p in paths if p.endswith(".answers")]

    def delete_chunks(self, batch_id: str) -> int:
        """Delete the chunks of a batch; return the number of objects."""
        paths = self.blobs.paths(f"batch_chunks/{batch_id}")
        self.blobs.delete(*paths)
        return len(paths)

    def batches_with_chunks(self) -> list[str]:
        """Return the ids of the batches that have chunks."""
        return self.blobs.folders("batch_chunks")

    def counts(self, batch: Batch) -> tuple[int, int]:
        """Return how many requests have completed and failed so far; an estimate until the batch has ended.

        Raises redis.exceptions.RedisError.
        """
        if batch.has_ended:
            return batch.completed, batch.failed
        progress = self.live.progress(batch.id) or {}
        return progress.get("completed", 0), progress.get("failed", 0)


def no_such_batch(reference: str) -> NotFound:
    """Return the error for a batch that does not exist."""
    return NotFound(f"there is no batch {reference!r}", code="batch_not_found", param="batch_id")


def _chunk_path(batch_id: str, chunk: int, kind: str) -> str:
    return f"batch_chunks/{batch_id}/{chunk:06d}.{kind}"
