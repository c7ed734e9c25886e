"""Every error as one JSON shape with the right status.

Domain errors carry their message; anything unforeseen is logged with the request's id and shown as a
bare 500.
"""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from app.errors import Forbidden, Unauthorized, UnsupportedMedia
from app.schemas.errors import ErrorAnswer, ErrorDetail, ErrorType
from models.errors import (
    Busy,
    Conflict,
    DomainError,
    InvalidInput,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)

log = logging.getLogger("nextchar.api")

_MOST_TOLD = 1000  # of a body's errors; there may be a million

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
    304: "Not changed since the ETag sent along.",
    400: "The body is not JSON.",
    401: "There are API keys, and none or no known one was sent.",
    403: "The API key is not for this call or this model, or a page of another site may not make it.",
    404: "What the path or body names does not exist.",
    408: "The body did not come, or came too slowly.",
    409: "The present state of what is named does not allow this.",
    413: "The body is larger than the limit.",
    415: "The body is in an encoding or format that is not understood.",
    421: "The Host header does not name this service.",
    422: "A field or the body is wrong; `param` names it.",
    429: "Too many requests wait for this model, or come with this key; Retry-After says when to come again.",
    431: "The request's header is too large.",
    500: "A mistake of this program; the log has its details under the request's id.",
    503: "A part that this request needs is down or damaged, or too much is held or connected now.",
    507: "The storage is full.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's declaration of the error statuses a route can answer with; 500 is always one.

    So are those of the server itself. Those of API keys are, but where there is nothing else to refuse; and
    those of slow bodies where a body may be too large.
    """
    of_keys = (401, 403, 429) if statuses else ()
    of_bodies = (408, 503) if 413 in statuses else ()
    declared = (*of_keys, *of_bodies, *statuses, 421, 431, 500)
    return {s: {"model": ErrorAnswer, "description": _MEANING[s]} for s in sorted(set(declared))}


def answer(error: Exception) -> tuple[int, ErrorAnswer]:
    """Return the status and body for an exception; for an unforeseen one, a 500 that tells nothing."""
    if isinstance(error, DomainError):
        status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
        return status, _answer(status, error.code, error.message, error.param)
    if isinstance(error, HTTPException):
        return error.status_code, _answer(error.status_code, *_http_words(error))
    if isinstance(error, RedisError):
        return 503, _answer(503, "queue_unavailable", "the queue does not answer; try again in a moment")
    return 500, _answer(500, "internal_error", "something went wrong here; the log has the details")


def error_response(error: Exception) -> JSONResponse:
    """Return the HTTP answer for an exception."""
    status, body = answer(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if status == 409:
        headers["X-Should-Retry"] = "false"  # OpenAI's SDKs would ask again, and be told the same
    return JSONResponse(body.model_dump(), status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every foreseen exception in the one shape."""
    app.add_exception_handler(DomainError, _foreseen)
    app.add_exception_handler(RedisError, _foreseen)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _foreseen)
    app.add_exception_handler(ClientDisconnect, _client_gone)


async def error_answer(request: Request, error: Exception) -> Response:
    """Return the answer for what is wrong with a request: a domain error or the framework's own."""
    if isinstance(error, RequestValidationError):
        return await _validation(request, error)
    return await _foreseen(request, error)


async def _foreseen(_: Request, error: Exception) -> Response:
    if isinstance(error, RedisError):
        log.warning("Redis does not answer: %s", error)
    return error_response(error)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx's number for the log


def _http_words(error: HTTPException) -> tuple[str, str]:
    """Return the code and message for what the framework itself refuses."""
    known = {
        400: ("malformed_body", f"the body cannot be read: {error.detail}"),
        404: (
            "no_such_route",
            "there is nothing at this path; /openapi.json lists what there is",
        ),
        405: (
            "method_not_allowed",
            "this method is not possible here; the Allow header lists those that are",
        ),
        408: ("request_timeout", "the request did not come, or came too slowly; send it again"),
        413: ("body_too_large", "the body is larger than this call accepts"),
        421: ("host_not_allowed", str(error.detail)),
        431: ("header_too_large", "the request's header is too large"),
        503: ("overloaded", str(error.detail)),
    }
    return known.get(error.status_code, (f"http_{error.status_code}", str(error.detail)))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1]
        why = first.get("ctx", {}).get("error", first["msg"])
        return _refuse(
            400,
            "malformed_json",
            f"the body is not JSON: {why} at character {where}",
            "body",
        )
    if tuple(first["loc"]) == ("body",) and not _declares_json(request):
        sentence = "send the body as JSON, with the header Content-Type: application/json"
        return _refuse(415, "unsupported_media_type", sentence, "body")
    errors = error.errors()[:_MOST_TOLD]
    param, message = _what_is_wrong(errors)
    code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_field"
    more = len({p for e in errors if not _is_within(p := _param(e), _param(first))})
    others = f" ({more} more field{'s are' if more > 1 else ' is'} wrong)" if more else ""
    return _refuse(422, code, f"{param}: {message}{others}", param)


def _what_is_wrong(errors: Sequence[Any]) -> tuple[str, str]:
    """Return the field that the first of pydantic's errors is about, and what is wrong there.

    A field that may be one of several kinds has errors for each. Those of kinds that it is not meant to be
    say nothing, so what is told is the one that found most to be right; or, where none did, all the kinds.
    """
    about = [e for e in errors if _is_within(_param(e), _param(errors[0]))]
    best = min(about, key=lambda e: (_is_other_kind(e), -len(e["loc"])))
    kinds = [e for e in about if _param(e) == _param(best)] if _is_other_kind(best) else [best]
    first, *rest = dict.fromkeys(map(_sentence, kinds))
    return _param(best), " or ".join(
        [first, *(sentence.removeprefix("Input should be ") for sentence in rest)]
    )


def _is_other_kind(error: Any) -> bool:
    return bool(error["type"].endswith("_type") or error["type"] == "literal_error")


def _is_within(param: str, of: str) -> bool:
    return param == of or param.startswith(f"{of}.")


def _sentence(error: Any) -> str:
    """Return what is wrong, in words of JSON where pydantic has those of Python."""
    match error["type"]:
        case "extra_forbidden":
            return "there is no such field"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "Input should be an object"
        case "missing" if tuple(error["loc"]) == ("body",):
            return "there is none; send a JSON object"
    return str(error["msg"]).removeprefix("Value error, ")


def _declares_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _param(error: Any) -> str:
    """Return a dotted field path. Pydantic mixes names of union members in; they are not field names."""
    path = error["loc"][1:] if len(error["loc"]) > 1 else error["loc"]
    names = [str(part) for part in path if _is_name(part)]
    if error["type"] == "extra_forbidden" and not _is_name(path[-1]):
        names.append(repr(path[-1][:100]))  # a field may be called anything
    return ".".join(names)


def _is_name(part: str | int) -> bool:
    return re.fullmatch(r"[\w-]+", str(part)) is not None and part != "constrained-str"


def _refuse(status: int, code: str, message: str, param: str) -> Response:
    return JSONResponse(_answer(status, code, message, param).model_dump(), status)


def _answer(status: int, code: str, message: str, param: str | None = None) -> ErrorAnswer:
    kind = _TYPE_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorAnswer(error=ErrorDetail(type=kind, code=code, message=message, param=param))
