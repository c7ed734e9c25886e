"""nextchar from Python: clients of a running service, and the command line built on them.

>>> from nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextchar.client import Client, TrainingJob
from nextchar.errors import (
    ClientError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NextcharError,
    NotFound,
    RateLimited,
    ServerError,
    ServerUnreachable,
    Timeout,
    TrainingFailed,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from nextchar.async_client import AsyncClient, AsyncTrainingJob

__all__ = [
    "AsyncClient",
    "AsyncTrainingJob",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "NextcharError",
    "NotFound",
    "RateLimited",
    "ServerError",
    "ServerUnreachable",
    "Timeout",
    "TrainingFailed",
    "TrainingJob",
    "Unauthorized",
    "Unavailable",
]

_MODULE_OF = {"AsyncClient": "nextchar.async_client", "AsyncTrainingJob": "nextchar.async_client"}
"""Names that are imported on first use: asyncio would slow each start of the command down."""


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
