"""`nextchar audit`: who changed, stopped, deleted or downloaded what."""

from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from nextchar.cli.formatting import format_time
from nextchar.cli.session import Session, command
from nextchar.types import AuditEntry


def _time(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return datetime.fromisoformat(date).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{date!r} is not a date; write 2026-12-31 or 2026-12-31T18:00") from None


@command
def audit(
    session: Session,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="Calls with this API key.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Calls of this operation, such as delete_model.")
    ] = None,
    about: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Calls whose path contains this text.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Calls at or after this time.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Calls at or before this time.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="The most entries.")] = 100,
) -> None:
    """List who changed, stopped, deleted or downloaded what, newest first. Needs a key with scope admin.

    Example: nextchar audit --about names@2
    """
    columns: dict[str, Callable[[AuditEntry], str]] = {
        "time": lambda one: format_time(one["at"]),
        "key": lambda one: one["key"] or "–",
        "address": lambda one: one["address"],
        "action": lambda one: one["action"],
        "about": lambda one: one["about"] + (f" -> {one['to']}" if one["to"] else ""),
    }
    found = session.client.audit(key=key, action=action, about=about, since=_time(since), until=_time(until))
    session.print_list(list(islice(found, number)), columns, if_empty="there is no such entry")
