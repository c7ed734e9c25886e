"""What can go wrong in a call, each with one sentence that its user can act on."""

_PASSING = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """A call did not work out; `str()` is the sentence to show."""

    @property
    def is_retryable(self) -> bool:
        """Whether the service, or what stands before it, is busy or away for a while."""
        return False


class ServerError(ClientError):
    """The server refused: `status` is HTTP's, `code` is stable and machine-readable."""

    def __init__(self, message: str, *, status: int, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @property
    def is_retryable(self) -> bool:
        """Whether its status is that of a service that is busy or away."""
        return self.status in _PASSING


class ServerUnreachable(ClientError):
    """Nobody answers at the server's address, or the connection broke."""

    @property
    def is_retryable(self) -> bool:
        """Yes, or nobody knows."""
        return True
