"""Errors as HTTP responses: one JSON shape, with the status of the error's class.

Domain errors have a message for the client: those of API keys and bodies are here, the others in
`nextchar.models.errors`. An unexpected error is logged with the request's id and sent with a 500 that reveals
nothing.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from nextchar.app.http.rules import content_type
from nextchar.app.http.schemas import ErrorBody, ErrorDetail, ErrorType
from nextchar.models.errors import (
    Busy,
    Conflict,
    DomainError,
    InvalidInput,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)
from nextchar.models.validation_errors import first_problem

log = logging.getLogger("nextchar.api")


class Unauthorized(DomainError):
    """The request has no API key, or one that is not in the key file."""

    code = "api_key_missing"


class Forbidden(DomainError):
    """The API key does not permit this call."""

    code = "not_permitted"


class UnsupportedMedia(DomainError):
    """The body has a media type or an encoding that the call does not accept."""

    code = "unsupported_media_type"


STATUS_OF: dict[type[DomainError], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    InvalidInput: 422,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMedia: 415,
    StorageFull: 507,
    Unavailable: 503,
    Busy: 429,
}

_TYPE_OF: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    507: "unavailable_error",
}

_MEANING = {
    304: "Not changed since the ETag in the request.",
    400: "The body is not JSON.",
    401: "The API key is missing or unknown.",
    403: "The API key, its quota, or the origin of the page that sent the request does not permit this call.",
    404: "A resource that the path or body names does not exist.",
    408: "The body did not arrive in time.",
    409: "The present state of the resource does not allow this.",
    413: "The body is larger than the limit.",
    415: "The encoding or media type of the body is not supported.",
    421: "The Host header does not name this service.",
    422: "A field or the body is invalid; `param` names it.",
    429: "Too many requests for this model or with this key; Retry-After tells when to retry.",
    431: "The request's header is too large.",
    500: "An unexpected error; the log has its details under the request's id.",
    503: "A resource that this request needs is unavailable or damaged, or the service is overloaded.",
    507: "The storage is full, or below the disk watermark.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's declaration of the error statuses of a route.

    Those of the server are added to all, those of API keys to all with other statuses, and those of slow
    bodies to all with status 413.
    """
    key_statuses = (401, 403, 429) if statuses else ()
    body_statuses = (408, 503) if 413 in statuses else ()
    declared = (*key_statuses, *body_statuses, *statuses, 421, 431, 500)
    # One status names the model, the others refer to it: FastAPI compiles a validator for each that names it.
    reference = {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}
    shape = {"content": {"application/json": reference}}
    return {
        status: {"description": _MEANING[status], **({"model": ErrorBody} if status == 500 else shape)}
        for status in sorted(set(declared))
    }


def status_and_body(error: Exception) -> tuple[int, ErrorBody]:
    """Return the status and body for an exception; a 500 without details for an unexpected one."""
    if isinstance(error, DomainError):
        status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
        return status, _body(status, error.code, error.message, error.param)
    if isinstance(error, HTTPException):
        return error.status_code, _body(error.status_code, *_http_error(error))
    if isinstance(error, RedisError):
        return 503, _body(503, "queue_unavailable", "the queue does not respond; try again in a moment")
    return 500, _body(
        500, "internal_error", "an unexpected error occurred; the log of the service has the details"
    )


def error_response(error: Exception) -> JSONResponse:
    """Return the HTTP response for an exception."""
    status, body = status_and_body(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, RedisError):
        headers["Retry-After"] = "1"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if status == 409:
        headers["X-Should-Retry"] = "false"  # OpenAI's SDKs would otherwise retry
    return JSONResponse(body.model_dump(), status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` handle every expected exception in this shape."""
    for kind in (DomainError, RedisError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)


async def handle_error(request: Request, error: Exception) -> Response:
    """Return the response for an expected exception."""
    if isinstance(error, RedisError):
        log.warning("Redis does not respond: %s", error)
    if isinstance(error, NotFound) and error.name and error.code in (hints := _hints(request)):
        with suppress(DomainError):
            error.message += await run_in_threadpool(hints[error.code], request, error.name)
    if isinstance(error, RequestValidationError):
        response = _invalid_request(request, error)
    else:
        response = error_response(error)
    if response.status_code == 422:
        response.status_code = getattr(request.scope.get("route"), "invalid_status", 422)
    return response


def _hints(request: Request) -> dict[str, Callable[[Request, str], str]]:
    hints: dict[str, Callable[[Request, str], str]] = request.scope["state"]["services"].hints
    return hints


async def _handle_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # for the log only, as in nginx: the client has disconnected


def _http_error(error: HTTPException) -> tuple[str, str]:
    """Return the code and message for an error of Starlette or FastAPI."""
    known = {
        400: ("malformed_body", f"the body cannot be read: {error.detail}"),
        404: ("no_such_route", "there is no route at this path; /openapi.json lists all routes"),
        405: (
            "method_not_allowed",
            "this path does not support this method; the Allow header lists those that it does",
        ),
        408: ("request_timeout", "the request did not arrive in time; send it again"),
        413: ("body_too_large", str(error.detail)),
        421: ("host_not_allowed", str(error.detail)),
        431: ("header_too_large", "the request's header is too large"),
        503: ("overloaded", str(error.detail)),
    }
    return known.get(error.status_code, (f"http_{error.status_code}", str(error.detail)))


def _invalid_request(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        reason = first.get("ctx", {}).get("error", first["msg"])
        return _refusal(
            400, "malformed_json", f"the body is not JSON: {reason} at character {position}", "body"
        )
    if tuple(first["loc"]) == ("body",) and not declares_json(request):
        message = "send the body as JSON, with the header Content-Type: application/json"
        return _refusal(415, "unsupported_media_type", message, "body")
    bodies = [param.field_info.annotation for param in request.scope["route"].dependant.body_params]
    body = bodies[0] if len(bodies) == 1 else None
    return JSONResponse(invalid_fields(error.errors(), body).model_dump(), 422)


def invalid_fields(errors: Sequence[Any], of: Any = None) -> ErrorBody:
    """Return the body for status 422 from pydantic's errors, whose `loc` begin with `body` or the like.

    `of` is the body's type.
    """
    code = "unknown_field" if errors[0]["type"] == "extra_forbidden" else "invalid_field"
    param, message = first_problem(
        [{**error, "loc": error["loc"][1:] or error["loc"]} for error in errors], of
    )
    return _body(422, code, message, param)


def declares_json(request: Request) -> bool:
    """Return whether a request's content type is JSON."""
    media_type = content_type(request.headers)
    return media_type == "application/json" or media_type.endswith("+json")


def _refusal(status: int, code: str, message: str, param: str) -> Response:
    return JSONResponse(_body(status, code, message, param).model_dump(), status)


def _body(status: int, code: str, message: str, param: str | None = None) -> ErrorBody:
    kind = _TYPE_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorBody(error=ErrorDetail(type=kind, code=code, message=message, param=param))
