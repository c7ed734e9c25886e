"""What a client can do with batches, create and cancel; and how lost ones are queued again."""

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from nextchar.app.access.keys import Key
from nextchar.app.jobs.control import IdempotencyKeys
from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.models.errors import Busy, Conflict, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.queue import BatchQueue

log = logging.getLogger("nextchar.reconcile")

RECONCILE_S = 10.0
"""Interval between two calls of `queue_lost`, each of which lists the records."""

_QUOTA_RETRY_S = 30.0


@dataclass
class BatchControl:
    """Creates and cancels batches in the storage and the queue."""

    blobs: Blobs
    batches: Batches
    queue: BatchQueue
    _lost: set[str] = field(default_factory=set)  # as of the last look

    def created(self, key: str, body: bytes) -> Batch | None:
        """Return the batch of an earlier request with this Idempotency-Key, as `IdempotencyKeys.created`."""
        return self._keys.created(key, body, self.batches.get)

    def create(self, *, idempotency_key: str | None, body: bytes, caller: Key | None, **fields: Any) -> Batch:
        """Record a batch; requests with the same key create it only once.

        The batches of the caller are counted before and after it is recorded, so concurrent requests never
        exceed its quota.

        Raises:
            Busy: the caller's key has as many unfinished batches as it may have (code
                `batch_quota_reached`).
            Conflict: a concurrent request has used the idempotency key with another body.
        """
        self._check_quota(caller)
        batch_id = self._keys.id_for(idempotency_key, body)
        try:
            batch = self.batches.create(
                id=batch_id,
                key_name=caller.name if caller else None,
                key_models=caller.models if caller else (),
                key_max_corpus_bytes=caller.max_corpus_bytes if caller else None,
                **fields,
            )
        except Conflict:  # of a concurrent request with the same key
            return self.batches.get(batch_id)
        try:
            self._check_quota(caller, but=batch)
        except Busy:
            with contextlib.suppress(Conflict, NotFound):
                ended = self.cancel(batch)
                if ended.has_ended:  # no request of it has been answered
                    self.batches.delete(ended)
            raise
        with contextlib.suppress(RedisError):  # then the reconciler queues it
            self.queue.enqueue(batch.id)
        return batch

    def cancel(self, batch: Batch) -> Batch:
        """Cancel a batch; return its new record.

        Raises:
            NotFound: it was deleted.
            Conflict: it is finalizing or has ended.
        """
        while batch.status is not BatchStatus.CANCELLING:
            is_new = batch.status is BatchStatus.VALIDATING
            to = BatchStatus.CANCELLED if is_new else BatchStatus.CANCELLING
            try:
                return self.batches.move(batch, to)
            except Conflict as error:
                if error.code != "batch_moved":  # it has been moved since it was read: read it again
                    raise
                batch = self.batches.get(batch.id)
        return batch

    def queue_lost(self) -> None:
        """Queue the batches again that have not ended and had neither message nor lease at two looks.

        At one look the message may be on its way. A second message would have no effect.

        Raises redis.exceptions.RedisError, and Unavailable if the storage does not work.
        """
        self.batches.live.check_writable()  # otherwise no lease can be renewed
        unfinished = {batch.id for batch in self.batches.unfinished()} - set(self.queue.waiting())
        before, self._lost = self._lost, {one for one in unfinished if not self.batches.live.has_lease(one)}
        for batch_id in before & self._lost:
            log.warning("the worker or the message of %s was lost; queued again", batch_id)
            self.queue.enqueue(batch_id)

    @property
    def _keys(self) -> IdempotencyKeys:
        return IdempotencyKeys(self.blobs, "batch")

    def _check_quota(self, caller: Key | None, *, but: Batch | None = None) -> None:
        if caller is None or caller.max_batches is None:
            return
        unfinished = self.batches.unfinished()
        count = sum(one.key_name == caller.name and one.id != (but and but.id) for one in unfinished)
        if count >= caller.max_batches:
            raise Busy(
                f"this key has {count} batches that have not ended and may have {caller.max_batches};"
                " wait for one to end, or cancel one",
                retry_after_s=_QUOTA_RETRY_S,
                code="batch_quota_reached",
            )
