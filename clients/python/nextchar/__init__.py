"""nextchar from Python and from the shell: a client over HTTP, and models in this process.

>>> from nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]

`load` and `train` work without a server and need the extra `nextchar[serve]`.
"""

from typing import TYPE_CHECKING, Any

from nextchar.client import Client
from nextchar.errors import ClientError, ServerError, ServerUnreachable

if TYPE_CHECKING:
    from nextchar.local import Heatmap, Model, load, train

__all__ = [
    "Client",
    "ClientError",
    "Heatmap",
    "Model",
    "ServerError",
    "ServerUnreachable",
    "load",
    "train",
]

_LOCAL = frozenset({"Heatmap", "Model", "load", "train"})


def __getattr__(name: str) -> Any:
    """Import what runs models in this process when it is first used. The client alone does not need it."""
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
