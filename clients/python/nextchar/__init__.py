"""nextchar from Python: clients of a running service, models in this process, and the command line.

>>> from nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]

`load` and `train` work without a server and need the extra `nextchar[serve]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextchar.async_client import AsyncClient
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
    from nextchar.local import Heatmap, Model, load
    from nextchar.local_training import train
    from nextchar.training import AsyncTrainingJob

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

_MODULE_OF = {
    "AsyncClient": "nextchar.async_client",
    "AsyncTrainingJob": "nextchar.training",
    "Client": "nextchar.client",
    "ClientError": "nextchar.errors",
    "Conflict": "nextchar.errors",
    "Forbidden": "nextchar.errors",
    "Heatmap": "nextchar.local",
    "InvalidRequest": "nextchar.errors",
    "Model": "nextchar.local",
    "NextcharError": "nextchar.errors",
    "NotFound": "nextchar.errors",
    "RateLimited": "nextchar.errors",
    "ServerError": "nextchar.errors",
    "ServerUnreachable": "nextchar.errors",
    "Timeout": "nextchar.errors",
    "TrainingFailed": "nextchar.errors",
    "TrainingJob": "nextchar.client",
    "Unauthorized": "nextchar.errors",
    "Unavailable": "nextchar.errors",
    "load": "nextchar.local",
    "train": "nextchar.local_training",
}
"""Names are imported on first use: the command starts faster and handles Ctrl-C before it imports more, and
what runs models in this process need not be installed."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"nextchar.{name} needs {error.name}, which is not installed; install all that it needs with:"
            " pip install 'nextchar[serve]'"
        ) from error
