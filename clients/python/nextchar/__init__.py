"""nextchar from Python: clients of a running service, models in this process, and the command line.

Without a server, with the extra `nextchar[serve]`: `help(nextchar.train)`, `help(nextchar.Model)`.

>>> import nextchar
>>> model = nextchar.train(Path("book.txt"), seconds=60)  # doctest: +SKIP
>>> model.complete("The statement ", max_characters=40)  # doctest: +SKIP
>>> nextchar.load("folder").score(["GET / 200", "GET /' 500"])  # doctest: +SKIP

With one: `help(nextchar.Client)`.

>>> with nextchar.Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextchar.client import AsyncClient as AsyncClient
    from nextchar.client import Client as Client
    from nextchar.client import TrainingJob as TrainingJob
    from nextchar.errors import ClientError as ClientError
    from nextchar.errors import Conflict as Conflict
    from nextchar.errors import Forbidden as Forbidden
    from nextchar.errors import InvalidRequest as InvalidRequest
    from nextchar.errors import NextcharError as NextcharError
    from nextchar.errors import NotFound as NotFound
    from nextchar.errors import RateLimited as RateLimited
    from nextchar.errors import ServerError as ServerError
    from nextchar.errors import ServerUnreachable as ServerUnreachable
    from nextchar.errors import Timeout as Timeout
    from nextchar.errors import TrainingFailed as TrainingFailed
    from nextchar.errors import Unauthorized as Unauthorized
    from nextchar.errors import Unavailable as Unavailable
    from nextchar.local import Model as Model
    from nextchar.local import load as load
    from nextchar.local import score_column as score_column
    from nextchar.local_training import train as train
    from nextchar.notebook import Heatmap as Heatmap
    from nextchar.training import AsyncTrainingJob as AsyncTrainingJob

    __version__: str

_EXPORTS = {
    "nextchar.client": "AsyncClient Client TrainingJob",
    "nextchar.errors": "ClientError Conflict Forbidden InvalidRequest NextcharError NotFound RateLimited"
    " ServerError ServerUnreachable Timeout TrainingFailed Unauthorized Unavailable",
    "nextchar.local": "Model load score_column",
    "nextchar.local_training": "train",
    "nextchar.notebook": "Heatmap",
    "nextchar.training": "AsyncTrainingJob",
}
"""Names are imported on first use: the command starts faster and handles Ctrl-C before it imports more, and
what runs models in this process need not be installed."""

_NEEDS_NUMBA = ("nextchar.local", "nextchar.local_training", "nextchar.notebook")
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 -- type checkers see what is imported above


def __dir__() -> list[str]:
    """Return the names that can be used here: without numba, those of clients of a service alone."""
    can_run_models = find_spec("numba") is not None
    return ["__version__", *(n for n in __all__ if can_run_models or _MODULE_OF[n] not in _NEEDS_NUMBA)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("nextchar.models").installed_version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"nextchar.{name} needs {error.name}, which is not installed; install all that it needs with:"
            " pip install 'nextchar[serve]'"
        ) from error
