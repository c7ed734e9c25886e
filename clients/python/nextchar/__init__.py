"""nextchar from Python and from the shell: clients over HTTP, and models in this process.

>>> from nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]

`load` and `train` work without a server and need the extra `nextchar[serve]`.
"""

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
    from nextchar.local import Heatmap, Model, load, train

__all__ = [
    "AsyncClient",
    "AsyncTrainingJob",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Heatmap",
    "InvalidRequest",
    "Model",
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
    "load",
    "train",
]

_ASYNCIO = frozenset({"AsyncClient", "AsyncTrainingJob"})
_LOCAL = frozenset({"Heatmap", "Model", "load", "train"})


def __getattr__(name: str) -> Any:
    """Import what the command does without when it is first used: asyncio, and models in this process."""
    if name in _ASYNCIO:
        from nextchar import async_client

        return getattr(async_client, name)
    if name not in _LOCAL:
        raise AttributeError(f"module 'nextchar' has no attribute {name!r}")
    try:
        from nextchar import local
    except ModuleNotFoundError as error:
        raise ImportError(
            f"nextchar.{name} needs {error.name}, which is not installed; install all that it needs with:"
            " pip install 'nextchar[serve]'"
        ) from error
    return getattr(local, name)
