"""The options that every command has. They may stand before the command, after its group, or behind it."""

from functools import partial
from typing import Annotated, Any

import typer

from nextchar.client import DEFAULT_SERVER

_service_option = partial(typer.Option, rich_help_panel="Service")
_server_option = partial(_service_option, "--server", metavar="URL")
_key_option = partial(_service_option, "--api-key", metavar="KEY", show_default=False)
_SERVER, _KEY = "Address of the service.", "API key, if the service requires one."

Server = Annotated[
    str | None, _server_option(help=f"{_SERVER} Default: NEXTCHAR_SERVER, or {DEFAULT_SERVER}.")
]
ApiKey = Annotated[str | None, _key_option(help=f"{_KEY} Default: NEXTCHAR_API_KEY.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's responses as JSON.")]

ServerFromEnvironment = Annotated[str, _server_option(envvar="NEXTCHAR_SERVER", help=_SERVER)]
ApiKeyFromEnvironment = Annotated[str | None, _key_option(envvar="NEXTCHAR_API_KEY", help=_KEY)]


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
