"""/v1/batches: how batches are created, cancelled and queued again when lost; their metrics and retention.

Workers run them: `nextchar.app.openai.batch_processing`.

The metrics are read from records and Redis: each process reports the same.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client.core import Metric
from redis.exceptions import RedisError

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.keys import Key
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.http.errors import error_responses
from nextchar.app.http.limits import BATCHES_OF_KEY
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, IdempotencyKey, Page, paginate
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.jobs.control import IdempotencyKeys
from nextchar.app.openai.batches import Batch, Batches, BatchStatus, no_such_batch
from nextchar.app.openai.files import BATCH, get_file, purpose_of
from nextchar.app.openai.job_schemas import BatchBody, BatchCreate, BatchErrors, RequestCounts
from nextchar.app.openai.schemas import NOT_422, OpenAIRoute
from nextchar.app.operations.metrics import gauge
from nextchar.app.operations.retention import is_due
from nextchar.models.errors import Busy, Conflict, InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.queue import BatchQueue

log = logging.getLogger("nextchar.reconcile")

RECONCILE_S = 10.0
"""Interval between two calls of `queue_lost`, each of which lists the records."""


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
            raise BATCHES_OF_KEY.refusal(
                f"this key has {count} batches that have not ended and may have {caller.max_batches};"
                " wait for one to end, or cancel one"
            )


def batch_metrics(batches: Batches, clock: Callable[[], float] = time.time) -> list[Metric]:
    """Return gauges of batches and their requests."""
    listed = batches.all()
    unfinished = [batch for batch in listed if not batch.has_ended]
    answered = sum(sum(batches.counts(batch)) for batch in unfinished)
    oldest_at = min((batch.created_at for batch in unfinished), default=None)
    by_status = {(status.value,): sum(one.status is status for one in listed) for status in BatchStatus}
    return [
        gauge("nextchar_batches", "Recorded batches.", by_status, "status"),
        gauge(
            "nextchar_batch_waiting_requests",
            "Requests of validated batches that are not answered.",
            sum(batch.requests for batch in unfinished) - answered,
        ),
        gauge(
            "nextchar_batch_oldest_seconds",
            "Seconds since the oldest batch that has not ended was created; 0 if there is none.",
            0.0 if oldest_at is None else max(0.0, clock() - oldest_at),
        ),
    ]


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


router = APIRouter(prefix="/v1/batches", tags=["OpenAI"], route_class=OpenAIRoute)

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@router.post("", responses=NOT_422 | error_responses(404, 409, 413, 415, 429, 503, 507))
@needs("complete", body=SMALL_JSON)
def create_batch(
    request: Request,
    services: ServicesDep,
    access: AccessDep,
    body: BatchCreate,
    idempotency_key: IdempotencyKey = None,
) -> BatchBody:
    """Run the requests in an uploaded file in the background."""
    text = body.model_dump_json().encode()
    repeated = access.scoped_idempotency_key(idempotency_key)
    if repeated and (batch := services[BatchControl].created(repeated, text)):
        return _body(services, batch)
    file = get_file(access, body.input_file_id, param="input_file_id")
    purpose = purpose_of(services.blobs, access, file)
    if purpose != BATCH:
        raise InvalidInput(
            f"the file {file.id} has the purpose {purpose!r}; upload it with the purpose batch (if the same"
            " bytes were uploaded with another purpose, delete that file first)",
            code="wrong_purpose",
            param="input_file_id",
        )
    services.watermark.check()
    access.check_corpus_quota()  # its output file counts
    window = int(body.completion_window[:-1]) * _UNITS[body.completion_window[-1]]
    now = int(time.time())
    batch = services[BatchControl].create(
        idempotency_key=repeated,
        body=text,
        caller=access.key,
        endpoint=body.endpoint,
        input_file=file.id,
        completion_window=body.completion_window,
        metadata=body.metadata,
        created_at=now,
        expires_at=now + int(window.total_seconds()),
    )
    set_audit_details(request, about=f"/v1/batches/{batch.id}")
    return _body(services, batch)


@router.get("", responses=NOT_422 | error_responses(503))
@needs("complete")
def list_batches(
    services: ServicesDep,
    access: AccessDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = DEFAULT_LIMIT,
) -> Page[BatchBody]:
    """List batches, newest first."""
    batches = [batch for batch in services[Batches].all() if _is_accessible(access, batch)]
    page, has_more = paginate(batches, lambda batch: batch.id, after=after, limit=limit)
    return Page(data=[_body(services, batch) for batch in page], has_more=has_more)


@router.get("/{batch_id}", responses=NOT_422 | error_responses(404, 503))
@needs("complete")
def get_batch(services: ServicesDep, access: AccessDep, batch_id: str) -> BatchBody:
    """Get a batch."""
    return _body(services, _get(services, access, batch_id))


@router.post("/{batch_id}/cancel", responses=NOT_422 | error_responses(404, 409, 503))
@needs("complete", body=SMALL_JSON)
def cancel_batch(request: Request, services: ServicesDep, access: AccessDep, batch_id: str) -> BatchBody:
    """Cancel a batch; its files have the responses of the requests that have run by then."""
    set_audit_details(request, about=f"/v1/batches/{batch_id}/cancel")
    return _body(services, services[BatchControl].cancel(_get(services, access, batch_id)))


def _get(services: Services, access: Access, batch_id: str) -> Batch:
    batch = services[Batches].get(batch_id)
    if not _is_accessible(access, batch):
        raise no_such_batch(batch_id)
    return batch


def _is_accessible(access: Access, batch: Batch) -> bool:
    """Return whether the caller can see a batch. A limited key sees its own."""
    key = access.limited_key
    return key is None or batch.key_name == key.name


def _body(services: Services, batch: Batch) -> BatchBody:
    completed, failed = services[Batches].counts(batch)
    times = {
        f"{status}_at": batch.moved_at.get(status)
        for status in BatchStatus
        if status is not BatchStatus.VALIDATING
    }
    return BatchBody(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=BatchErrors(data=batch.errors) if batch.errors else None,
        input_file_id=batch.input_file,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file,
        error_file_id=batch.error_file,
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        request_counts=RequestCounts(total=batch.requests, completed=completed, failed=failed),
        metadata=batch.metadata,
        **times,
    )
