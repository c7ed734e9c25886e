"""/v1/batches: OpenAI's batches. Workers run them: `nextchar.app.openai.batch_processing`."""

from datetime import timedelta
from time import time
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Page, paginate
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.openai.batch_control import BatchControl
from nextchar.app.openai.batches import Batch, Batches, BatchStatus, no_such_batch
from nextchar.app.openai.files import BATCH, get_file, purpose_of
from nextchar.app.openai.job_schemas import BatchBody, BatchCreate, BatchErrorBody, BatchErrors, RequestCounts
from nextchar.app.openai.schemas import NOT_422, OpenAIRoute
from nextchar.models.errors import InvalidInput

router = APIRouter(prefix="/v1/batches", tags=["openai"], route_class=OpenAIRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A request that is repeated with the same key creates no second batch.",
    ),
]

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
    now = int(time())
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
    errors = [BatchErrorBody(**error.model_dump()) for error in batch.errors]
    return BatchBody(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=BatchErrors(data=errors) if errors else None,
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
