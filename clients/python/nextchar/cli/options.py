"""The options that every command has. They may stand before the command, after its group, or behind it."""

from typing import Annotated, Any

import typer

from nextchar.client import DEFAULT_SERVER

_PANEL = "Service"

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help=f"Address of the service. Default: NEXTCHAR_SERVER, or {DEFAULT_SERVER}.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="API key, if the service requires one. Default: NEXTCHAR_API_KEY.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answers as JSON.")]

ServerFromEnvironment = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="NEXTCHAR_SERVER",
        help="Address of the service.",
        rich_help_panel=_PANEL,
    ),
]
ApiKeyFromEnvironment = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="NEXTCHAR_API_KEY",
        help="API key, if the service requires one.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


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
