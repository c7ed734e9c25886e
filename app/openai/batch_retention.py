"""Which batches are deleted when they are due, which corpora are kept for them, and what a backup copies."""

import contextlib
from collections.abc import Collection

from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.app.operations.retention import is_due
from nextchar.models.errors import NotFound
from nextchar.store.blobs import Blobs


def delete_due(batches: Batches, blobs: Blobs, days: float, now: float) -> int:
    """Delete batches that ended more than `days` ago, and what is left of the chunks of ended ones."""
    with_chunks = batches.batches_with_chunks()  # listed before the records, which are made earlier
    recorded = {batch.id: batch for batch in batches.all()}
    listed = set(blobs.folders("batches"))
    for batch_id in with_chunks:
        ended = batch_id in recorded and recorded[batch_id].has_ended
        if ended or (listed and batch_id not in listed):
            batches.delete_chunks(batch_id)
    due = [one for one in recorded.values() if one.ended_at and is_due(one.ended_at, days, now)]
    for batch in due:
        batches.delete(batch)
    return len(due)


def used_corpora(batches: Batches, blobs: Blobs, *, is_strict: bool) -> set[str]:
    """Return the ids of the input files of unfinished batches.

    Raises Unavailable: a record is damaged; unless `is_strict`, it is skipped.
    """
    if not is_strict:
        return {batch.input_file for batch in batches.unfinished()}
    used: set[str] = set()
    for batch_id in blobs.folders("batches"):
        with contextlib.suppress(NotFound):
            batch = batches.get(batch_id)
            used |= set() if batch.has_ended else {batch.input_file}
    return used


def to_copy(paths: list[str], blobs: Blobs, copied: Collection[str]) -> list[str]:
    """Return the records of batches that a backup copies: only the first, if a batch has ended meanwhile.

    A batch that ends keeps its records, but its chunks are deleted: they are not among the entries that were
    copied before, or not all of them. The restored service runs it again from its input file.
    """
    newest = {path.split("/")[1]: path for path in paths}  # sorted
    ended = set()
    for batch_id, path in newest.items():
        with contextlib.suppress(FileNotFoundError, ValueError):  # deleted since, or damaged
            batch = Batch.model_validate_json(blobs.read_record(path))
            is_running = batch.status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING)
            if is_running and not set(copied).issuperset(batch.chunk_paths):
                ended.add(batch_id)
    return [path for path in paths if path.split("/")[1] not in ended or path.endswith("/000000.json")]
