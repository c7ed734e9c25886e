"""`nextchar audit`: who changed, stopped, deleted or downloaded what."""

from datetime import datetime
from functools import partial
from itertools import islice
from typing import Annotated

import typer

from nextchar.cli.formatting import format_time
from nextchar.cli.session import Session, command


def date(text: str) -> float:
    """Return the Unix time of a date in the local time zone."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a date; write 2026-12-31 or 2026-12-31T18:00") from None


_date_option = partial(typer.Option, metavar="DATE", parser=date)


@command
def audit(
    session: Session,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="Calls with this API key.")] = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="Calls of this operation.")] = None,
    about: Annotated[str | None, typer.Option(metavar="TEXT", help="Calls whose path contains this.")] = None,
    since: Annotated[float | None, _date_option(help="Calls at or after this time.")] = None,
    until: Annotated[float | None, _date_option(help="Calls at or before this time.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="The most entries.")] = 100,
) -> None:
    """List who changed, stopped, deleted or downloaded what, newest first. Needs a key with scope admin.

    Example: nextchar audit --about names@2 --action delete_model
    """
    found = session.client.audit(key=key, action=action, about=about, since=since, until=until)
    columns = {
        "time": lambda one: format_time(one["at"]),
        "key": lambda one: one["key"] or "–",
        "address": lambda one: one["address"],
        "action": lambda one: one["action"],
        "about": lambda one: one["about"] + (f" -> {one['to']}" if one["to"] else ""),
    }
    session.print_list(list(islice(found, number)), columns, if_empty="there is no such entry")
