"""What an operation asks of its client: an operation is a generator of these, so that it is written once.

`Client` carries them out with blocking calls and `AsyncClient` with `await`; both throw what fails into the
operation, which decides whether to retry. See `operations` for the operations and `transport` for the two
drivers.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")

Content = bytes | IO[bytes] | Iterable[bytes]


@dataclass(frozen=True)
class Request(Generic[T]):
    """One HTTP request, whose answer is JSON of type T.

    Attributes:
        timeout_s: how long to wait for the next bytes of the answer.
        can_retry: whether a second copy of the request does no harm.
    """

    method: str
    path: str
    params: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    json: Any = None
    content: Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0
    can_retry: bool = False


@dataclass(frozen=True)
class Line:
    """A line to be scored: its number from 1, the text as it was given and the bytes that are sent."""

    number: int
    text: str | bytes
    data: bytes


class LineSource(Protocol):
    """Lines read ahead; `take` of one for `AsyncClient` returns an awaitable."""

    def take(self, max_bytes: int) -> Any:
        """Wait for a line; return it with those that are there, or an empty list at the end."""

    def close(self) -> None:
        """Stop reading."""


@dataclass(frozen=True)
class Open:
    """Send a request and wait for the head of its answer, a `Head`; a response that is open is closed."""

    request: Request[Any]


@dataclass(frozen=True)
class Head:
    """The status and headers of an answer."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Read:
    """Return the next bytes of the open response, none at its end."""


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Take:
    """Return lines of a source: see `LineSource.take`."""

    source: LineSource
    max_bytes: int


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Give the caller of a stream its next value."""

    value: T


Effect = Open | Read | Sleep | Take

Operation = Generator[Effect, Any, T]
"""Returns T."""

Stream = Generator[Effect | Emit[T], Any, None]
"""Emits any number of T."""


def open_(request: Request[Any]) -> Operation[Head]:
    """Return the head of the answer to a request, whatever its status."""
    return cast(Head, (yield Open(request)))


def read() -> Operation[bytes]:
    """Return the next bytes of the open response, none at its end."""
    return cast(bytes, (yield Read()))


def read_all() -> Operation[bytes]:
    """Return the rest of the open response."""
    pieces = []
    while piece := (yield from read()):
        pieces.append(piece)
    return b"".join(pieces)


def sleep(seconds: float) -> Operation[None]:
    """Wait."""
    yield Sleep(seconds)


def take(source: LineSource, max_bytes: int) -> Operation[list[Line]]:
    """Return the next lines of a source, none at its end."""
    return cast(list[Line], (yield Take(source, max_bytes)))
