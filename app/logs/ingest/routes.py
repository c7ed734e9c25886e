"""/v1/models/{model}/ingest and /v1/logs: lines that log agents send, and their state.

A request succeeds when its lines are on disk; they are scored afterwards by
`nextchar.app.logs.ingest.line_scoring`.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from redis.exceptions import RedisError

from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.http.bodies import DocumentRoute, gunzip_of
from nextchar.app.http.errors import (
    Forbidden,
    UnsupportedMedia,
    error_response,
    error_responses,
    status_and_body,
)
from nextchar.app.http.event_streams import Events, EventStream, Numbered, ServerEvent, stream_responses
from nextchar.app.http.limits import INGEST_PARSING, INGEST_STORING
from nextchar.app.http.rules import Body, content_type, needs
from nextchar.app.http.schemas import MAX_EVENT_NUMBER, LastEventId, Page
from nextchar.app.http.services import Services, ServicesDep, client_of
from nextchar.app.http.threads import run_in_thread
from nextchar.app.logs.ingest import lines as ingest_lines
from nextchar.app.logs.ingest import otlp as otlp_logs
from nextchar.app.logs.ingest.acceptance import (
    Ingest,
    Sender,
    check_any_line,
    decompressed,
    ingest_body,
    messages_of,
)
from nextchar.app.logs.ingest.kept_lines import FlaggedFeeds
from nextchar.app.logs.ingest.lines import ParsedLines
from nextchar.app.logs.ingest.schemas import (
    EXAMPLE_FLAGGED,
    FlaggedLine,
    IngestBody,
    IngestDropped,
    IngestQuery,
    IngestStatusBody,
    OtlpQuery,
)
from nextchar.models.errors import DomainError, InvalidInput, NotFound
from nextchar.store.gunzip import Gunzip

_LINES = Body(ingest_lines.MAX_BODY_BYTES)

router = APIRouter(tags=["ingest"], route_class=DocumentRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1, max_length=255, description="A batch that is sent again with the same key counts once."
    ),
]

_MAX_MODELS = 100  # whose records one request may have: each is looked up

_LINES_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "Lines of text; or JSON, an object or a string per line, as JSON lines or in a list."
        " Gzip is accepted.",
        "required": True,
        "content": {
            kind: {"schema": {"type": "string"}, "example": example}
            for kind, example in zip(
                ingest_lines.MEDIA_TYPES,
                ['{"message": "GET /", "host": "web-1"}\n'] * len(ingest_lines.JSON_LINES_TYPES)
                + ['[{"message": "GET /", "host": "web-1"}]', "GET /\n"],
                strict=True,
            )
        },
    }
}
_EVENTS_RESPONSE = stream_responses(
    "A list, or with `Accept: text/event-stream` an unbounded stream.",
    {"object": "list", "data": [EXAMPLE_FLAGGED], "has_more": False},
    f"id: 17\nevent: flagged\ndata: {json.dumps(EXAMPLE_FLAGGED)}\n\n",
)
_OTLP_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "An ExportLogsServiceRequest of OTLP.",
        "required": True,
        "content": {
            otlp_logs.PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
            otlp_logs.JSON: {
                "schema": {"type": "object"},
                "example": {
                    "resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "GET /"}}]}]}]
                },
            },
        },
    }
}
_BINARY = {otlp_logs.PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}
_OTLP_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An ExportLogsServiceResponse in the type of the request. `partialSuccess` counts"
        " records that were rejected; the others are on disk.",
        "content": {
            "application/json": {
                "example": {"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "record 7: …"}}
            },
            **_BINARY,
        },
    }
}
# A request in protobuf gets google.rpc.Status in protobuf.
_OTLP_ERRORS: dict[int | str, dict[str, Any]] = {
    status: one | {"content": one.get("content", {}) | _BINARY}
    for status, one in error_responses(400, 404, 409, 413, 415, 422, 429, 503).items()
}


@router.post(
    "/v1/models/{model}/ingest",
    status_code=202,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=_LINES_BODY,
)
@needs("ingest", body=_LINES)
async def ingest_lines_of_agent(
    services: ServicesDep,
    request: Request,
    model: str,
    query: Annotated[IngestQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> IngestBody:
    """Accept lines of a log agent, to be scored in the background. They are on disk when the call returns."""
    gunzip = gunzip_of(request.headers.get("content-encoding", "identity"))
    media_type, data = content_type(request.headers), await request.body()
    sender = Sender(client_of(request), idempotency_key)
    parse = partial(_parse, services, model, data, gunzip, media_type, query)
    body, parsed = await anyio.to_thread.run_sync(parse, limiter=services.pools.limiter(INGEST_PARSING))
    accept = partial(services[Ingest].accept, {model: parsed}, sender.request(body, model, query))
    accepted = await anyio.to_thread.run_sync(accept, limiter=services.pools.limiter(INGEST_STORING))
    return ingest_body(model, parsed, accepted)


@router.get("/v1/models/{model}/ingest", responses=error_responses(404, 422, 503))
@needs("read")
def get_ingest(services: ServicesDep, model: str) -> IngestStatusBody:
    """Get how many lines wait, for how long, and how many were scored and flagged."""
    return services[Ingest].status(model)


@router.delete("/v1/models/{model}/ingest", responses=error_responses(404, 422, 503))
@needs("admin")
def drop_ingest(services: ServicesDep, model: str) -> IngestDropped:
    """Delete the waiting lines, and the flagged ones that live views show."""
    return IngestDropped(model=model, dropped=services[Ingest].drop(model))


@router.get(
    "/v1/models/{model}/ingest/events",
    response_model=Page[FlaggedLine],
    responses=_EVENTS_RESPONSE | error_responses(404, 422, 503),
)
@needs("read")
async def get_flagged_lines(
    services: ServicesDep,
    request: Request,
    model: str,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_EVENT_NUMBER,
            description="Only lines with numbers above this. Default: 0, and for a stream the newest.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=5_000, description="The most lines in a page.")] = 1000,
    last_event_id: LastEventId = None,
) -> Response | Page[FlaggedLine]:
    """Get the newest flagged lines, as a list; or follow them as a stream."""
    await run_in_thread(services[Ingest].check_known, model)
    after = last_event_id if last_event_id is not None else after
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventStream(_flagged_lines(services, model, after))
    read = partial(services[Ingest].streams.flagged.read, model, after=after or 0, limit=limit + 1)
    found = await run_in_thread(read)
    lines = [FlaggedLine(id=number, **event) for number, event in found]
    return Page(data=lines[:limit], has_more=len(lines) > limit)


@router.post(
    "/v1/logs", response_class=Response, responses=_OTLP_RESPONSE | _OTLP_ERRORS, openapi_extra=_OTLP_BODY
)
@needs("ingest", body=_LINES)
async def export_logs(
    services: ServicesDep,
    access: AccessDep,
    request: Request,
    query: Annotated[OtlpQuery, Query()],
    x_nextchar_model: Annotated[str | None, Header(max_length=128)] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept OpenTelemetry's log records (OTLP/HTTP). The resource, a header or the query names the model."""
    media_type = content_type(request.headers)
    try:
        if media_type not in (otlp_logs.PROTOBUF, otlp_logs.JSON):
            raise UnsupportedMedia(
                f"send OTLP as {otlp_logs.PROTOBUF} or {otlp_logs.JSON}, not"
                f" {media_type or 'without a Content-Type'}",
                param="body",
            )
        gunzip = gunzip_of(request.headers.get("content-encoding", "identity"))
        data = await request.body()
        sender = Sender(client_of(request), idempotency_key)
        default_model = query.model or x_nextchar_model
        parse = partial(_parse_otlp, services, access, data, gunzip, media_type, query, default_model)
        parsed = await anyio.to_thread.run_sync(parse, limiter=services.pools.limiter(INGEST_PARSING))
        if parsed.lines:
            accept = partial(services[Ingest].accept, parsed.lines, sender.request(parsed.body, "", query))
            await anyio.to_thread.run_sync(accept, limiter=services.pools.limiter(INGEST_STORING))
        content = otlp_logs.response_of(parsed.rejected, parsed.message, media_type)
    except (DomainError, RedisError) as error:
        if media_type != otlp_logs.PROTOBUF:
            raise
        refusal = error_response(error)
        headers = {k: v for k, v in refusal.headers.items() if k not in ("content-length", "content-type")}
        status = otlp_logs.status_of(status_and_body(error)[1].error.message)
        return Response(status, refusal.status_code, headers, otlp_logs.PROTOBUF)
    return Response(content, media_type=media_type)


async def _flagged_lines(services: Services, model: str, after: int | None) -> Events:
    following: AsyncGenerator[Numbered, None] = services[FlaggedFeeds].follow(
        model, after=after, restarts=True
    )
    async with contextlib.aclosing(following) as events:
        async for number, event in events:
            yield ServerEvent("flagged", FlaggedLine(id=number, **event), id=number)


def _parse(
    services: Services, model: str, data: bytes, gunzip: Gunzip | None, media_type: str, query: IngestQuery
) -> tuple[bytes, ParsedLines]:
    """Return the decompressed body and its lines, for a model that can flag them."""
    services[Ingest].check(model, query)
    body = decompressed(data, gunzip)
    parsed = ingest_lines.parse_lines(body, media_type, query)
    check_any_line(parsed)
    return body, parsed


@dataclass(frozen=True)
class _ParsedOtlp:
    """The decompressed body, the lines by model, and what was rejected."""

    body: bytes
    lines: Mapping[str, ParsedLines]
    rejected: int
    message: str


def _parse_otlp(
    services: Services,
    access: Access,
    data: bytes,
    gunzip: Gunzip | None,
    media_type: str,
    query: OtlpQuery,
    default_model: str | None,
) -> _ParsedOtlp:
    body = decompressed(data, gunzip)
    found = otlp_logs.parse_otlp(body, media_type, query, default_model)
    if found.without_model and not found.by_model:
        raise InvalidInput(
            "no record names its model: set the query parameter model, the header X-Nextchar-Model or the"
            f" resource attribute {otlp_logs.MODEL_ATTRIBUTE}",
            code="model_missing",
            param="model",
        )
    if len(found.by_model) > _MAX_MODELS:
        raise InvalidInput(
            f"a request has records of at most {_MAX_MODELS} models; send smaller batches",
            code="too_many_models",
            param="body",
        )
    rejected = found.without_model
    messages = [f"{rejected} records name no model"] if rejected else []
    lines = dict(found.by_model)
    for model in list(lines):
        try:
            access.check_model(model)
            services[Ingest].check(model, query)
        except (Forbidden, InvalidInput, NotFound) as error:  # the others may pass: the agent sends again
            if len(found.by_model) == 1:
                raise
            rejected += lines.pop(model).records
            messages.append(error.message)
    rejected += sum(parsed.rejected for parsed in lines.values())
    messages += filter(None, [messages_of(list(lines.values()))])
    return _ParsedOtlp(body, lines, rejected, "; ".join(messages))
