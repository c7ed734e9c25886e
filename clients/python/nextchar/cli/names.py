"""Arguments and options that commands share, and the names that the service knows for them.

The names are offered when a shell completes a word.
"""

import difflib
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer
from typer import Argument, Option

from nextchar.client import DEFAULT_SERVER, Client
from nextchar.errors import NextcharError
from nextchar.types import Job

_service_option = partial(Option, rich_help_panel="Service")
_server_option = partial(_service_option, "--server", metavar="URL")
_key_option = partial(_service_option, "--api-key", metavar="KEY", show_default=False)
_SERVER, _KEY = "Address of the service.", "API key, if the service requires one."

Server = Annotated[
    str | None, _server_option(help=f"{_SERVER} Default: NEXTCHAR_SERVER, or {DEFAULT_SERVER}.")
]
ApiKey = Annotated[str | None, _key_option(help=f"{_KEY} Default: NEXTCHAR_API_KEY.")]
AsJson = Annotated[bool, Option("--json", help="Print the service's responses as JSON.")]

ServerFromEnvironment = Annotated[str, _server_option(envvar="NEXTCHAR_SERVER", help=_SERVER)]
ApiKeyFromEnvironment = Annotated[str | None, _key_option(envvar="NEXTCHAR_API_KEY", help=_KEY)]

_COMPLETION_TIMEOUT_S = 1.0


def shared_option(context: typer.Context, name: str) -> Any:
    """Return the value of an option that every level has: the one nearest to the command's end wins.

    Only the outermost level reads the environment, so an option given anywhere goes before it.
    """
    level: Any = context
    while level is not None:
        if value := level.params.get(name):
            return value
        level = level.parent
    return None


Names = dict[str, str]
"""What a user may type -> what to suggest for it."""


def corpus_names(client: Client) -> Names:
    """Return the corpora by name, and by id where they have no name."""
    labels = [corpus["name"] or corpus["id"] for corpus in client.corpora()]
    return {label: label for label in labels}


def job_names(client: Client) -> Names:
    """Return the ids of jobs, by id and by the name of the model that each trains; the newest job first."""
    jobs = list(client.jobs())
    names = {job["name"]: job["id"] for job in reversed(jobs)}
    return {job["id"]: job["id"] for job in jobs} | names


def model_names(client: Client) -> Names:
    """Return the names of models, then every `name@version` and `name@alias`."""
    models = list(client.models())
    aliases = [f"{m['name']}@{alias}" for m in models for alias in m.get("aliases", [])]
    exact = [*(m["id"] for m in models), *aliases]
    return {m["name"]: m["name"] for m in models} | {label: label for label in exact}


def with_suggestion(error: NextcharError, client: Client) -> str:
    """Return an error's sentence; it names the job of a model in training, or the job meant."""
    code = getattr(error, "code", "")
    unknown = re.search(r"'(.+)'", str(error))
    if unknown is None or code not in ("model_not_found", "job_not_found"):
        return str(error)
    try:
        if code == "model_not_found":
            job = _unfinished_job(client, unknown[1])
            status = (
                job and f"yet; {job['id']} trains it and is {job['status']}: nextchar jobs follow {job['id']}"
            )
            return f"{str(error).partition(';')[0]} {status}" if status else str(error)
        known = job_names(client)
    except NextcharError:  # the key may not list them
        return str(error)
    closest = difflib.get_close_matches(unknown[1], known, n=1)
    return f"{error}; did you mean {known[closest[0]]}?" if closest else str(error)


def _unfinished_job(client: Client, name: str) -> Job | None:
    unfinished = ("queued", "running", "paused")
    return next((job for job in client.jobs() if job["name"] == name and job["status"] in unfinished), None)


def complete_corpus(context: typer.Context, incomplete: str) -> list[str]:
    """Return the corpora whose name or id begins with `incomplete`."""
    return _completions(context, incomplete, corpus_names)


def complete_job(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of jobs that begin with `incomplete`."""
    return _completions(context, incomplete, job_names)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Return the models whose name begins with `incomplete`; versions, once there is an @."""
    names = _completions(context, incomplete, model_names)
    return [name for name in names if ("@" in name) == ("@" in incomplete)]


def _completions(context: typer.Context, incomplete: str, list_names: Callable[[Client], Names]) -> list[str]:
    """Ask the service for a second at most; without a response there are no completions, and no error."""
    server = shared_option(context, "server") or os.environ.get("NEXTCHAR_SERVER") or DEFAULT_SERVER
    api_key = shared_option(context, "api_key") or os.environ.get("NEXTCHAR_API_KEY")
    names: Names = {}

    def ask() -> None:
        try:
            with Client(server, api_key=api_key) as client:
                names.update(list_names(client))
        except NextcharError:
            pass  # a shell has no place for it

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_COMPLETION_TIMEOUT_S)
    return [name for label, name in names.copy().items() if label == name and name.startswith(incomplete)]


CorpusArgument = Annotated[
    str, Argument(metavar="CORPUS", help="Name or id of a corpus.", autocompletion=complete_corpus)
]
JobArgument = Annotated[str, Argument(metavar="JOB", help="Id of a job.", autocompletion=complete_job)]
ModelArgument = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="name@version, name@alias, or the name alone for its newest version.",
        autocompletion=complete_model,
    ),
]
