"""The exceptions of the client. Each message is a sentence that says what to do."""

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from json import JSONDecodeError, loads
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextchar.types import Job

_RETRYABLE = frozenset({429, 502, 503, 504})


class NextcharError(Exception):
    """A call failed; `str()` is a sentence for the user."""

    is_retryable: bool = False
    """Whether the same call may succeed a little later."""


ClientError = NextcharError
"""The name of `NextcharError` up to version 0.1."""


class ServerError(NextcharError):
    """The server responded with an error.

    Attributes:
        status: the HTTP status.
        code: stable and machine-readable, such as `model_not_found`.
        param: the field that is wrong, dotted for nested ones, where there is one.
        request_id: finds the request in the server's log.
        retry_after_s: seconds until the server wants to be asked again, if it said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.is_retryable = status in _RETRYABLE  # the service is busy or down for a moment


class Unauthorized(ServerError):
    """401: the service requires an API key, and none or an unknown one was sent."""


class Forbidden(ServerError):
    """403: the API key is not for this call or this model."""


class NotFound(ServerError):
    """404: there is no such corpus, job, model, calibration or file."""


class Conflict(ServerError):
    """409: the present state of what is named does not allow this."""


class InvalidRequest(ServerError):
    """400, 413, 415, 422: a field or the body is wrong; `param` names the field."""


class RateLimited(ServerError):
    """429: too many requests are waiting; ask again after `retry_after_s`."""


class Unavailable(ServerError):
    """502, 503, 504, 507: a part that the request needs is down or damaged, or the storage is full."""


class ServerUnreachable(NextcharError):
    """Nothing responds at the server's address, or the connection broke."""

    is_retryable = True  # the server may be restarting


class Timeout(ServerUnreachable):
    """There was no response in time, or a job was not finished in time."""


class TrainingFailed(NextcharError):
    """A job ended, or was paused, without a model. `job` is its record and `code` the reason."""

    def __init__(self, message: str, *, job: "Job", code: str) -> None:
        super().__init__(message)
        self.job = job
        self.code = code


_CLASS_OF_STATUS: dict[int, type[ServerError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
    **dict.fromkeys((400, 413, 415, 422), InvalidRequest),
    **dict.fromkeys((502, 503, 504, 507), Unavailable),
}

_STATUS_OF_TYPE = {
    "invalid_request_error": 422,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "server_error": 500,
}
"""The HTTP statuses of errors that come within a stream; of other types it is 503."""


def error_of_response(status: int, headers: Mapping[str, str], body: bytes) -> ServerError:
    """Return the exception for a response whose HTTP status is an error."""
    try:
        content = loads(body)
    except (JSONDecodeError, UnicodeDecodeError):
        content = None
    return _server_error(
        content,
        status=status,
        request_id=headers.get("x-request-id"),
        retry_after_s=_retry_after_s(headers.get("retry-after", "")),
    )


def error_in_stream(content: Any) -> ServerError:
    """Return the exception for an error that comes within a stream, whose HTTP status was 200."""
    kind = content["error"].get("type")
    return _server_error(content, status=_STATUS_OF_TYPE.get(kind, 503))


def _server_error(content: Any, *, status: int, **details: Any) -> ServerError:
    kind = _CLASS_OF_STATUS.get(status, ServerError)
    match content:
        case {"error": {"message": str(message), "code": str(code)}}:
            return kind(message, status=status, code=code, param=content["error"].get("param"), **details)
        case {"status": "not_ready", "down": [*down]}:
            names = " and ".join(str(part) for part in down if part != "kernels")
            reason = f"no response from its {names}" if names else "it is loading its kernels; try again"
            sentence = f"the service runs but is not ready: {reason}"
            return kind(sentence, status=status, code="not_ready", **details)
    sentence = f"the server responded with HTTP status {status} and no explanation"
    return kind(sentence, status=status, code="unknown", **details)


def _retry_after_s(value: str) -> float | None:
    """Return the seconds that a Retry-After header names, as a number or a date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
