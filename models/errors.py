"""The exceptions that a user can cause, one class for each way of answering them.

`app.http.errors` turns each class into one HTTP status; the worker turns them into a job's named failure.
What only a programming mistake can cause stays an `assert` or a built-in exception.
"""


class DomainError(Exception):
    """Something a user asked for that cannot be done, with a sentence they can act on.

    `code` is stable and machine-readable; `param` names the offending field, where there is one.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param


class InvalidInput(DomainError):
    """The request is well-formed but cannot be right."""

    code = "invalid_request"


class NotFound(DomainError):
    """No such corpus, job, model or file."""

    code = "not_found"


class Conflict(DomainError):
    """The request contradicts the present state of what it names."""

    code = "conflict"


class TooLarge(DomainError):
    """More bytes or characters than the limit allows."""

    code = "too_large"


class StorageFull(DomainError):
    """The disk or bucket has no room left."""

    code = "storage_full"


class Unavailable(DomainError):
    """A part that the request needs is down or damaged; other requests may still succeed."""

    code = "unavailable"


class Busy(DomainError):
    """The queue for this model is full; `retry_after_s` seconds from now is a good time to ask again."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
