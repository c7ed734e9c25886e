"""Exceptions that a user can cause, one class per HTTP status.

`nextchar.app.http.errors` maps each class to its status; the worker stores them as the reason of a job's
failure. Programming errors are asserts or built-in exceptions.
"""


class DomainError(Exception):
    """A request that cannot be fulfilled, with a message that the user can act on.

    `code` is stable and machine-readable; `param` is the offending field, if there is one.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param


class InvalidInput(DomainError):
    """The request is well-formed but invalid."""

    code = "invalid_request"


class NotFound(DomainError):
    """There is no such corpus, job, model or file; `name` is what was not found, if it may be misspelled."""

    code = "not_found"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.name = name


class Conflict(DomainError):
    """The request conflicts with the current state of a resource."""

    code = "conflict"


class TooLarge(DomainError):
    """More bytes or characters than a limit allows."""

    code = "too_large"


class StorageFull(DomainError):
    """The disk or bucket is full."""

    code = "storage_full"


class Unavailable(DomainError):
    """A component or file that the request needs is down or damaged; other requests may succeed."""

    code = "unavailable"


class Busy(DomainError):
    """The queue for this model is full; retry after `retry_after_s` seconds."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
