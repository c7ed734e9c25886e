"""Commands about the service as a whole.

`status`, `open` and `audit` ask it; `serve`, `demo`, `doctor`, `keys` and `admin` need `nextchar[serve]`.
"""

import contextlib
import os
import webbrowser
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Unpack

import typer
from typer import Argument, Option

from nextchar.cli.formatting import format_time
from nextchar.cli.jobs import status_of
from nextchar.cli.names import shared_option
from nextchar.cli.session import Session, command, fail
from nextchar.client import AsyncClient
from nextchar.options import AuditOptions
from nextchar.types import FINAL_STATUSES


@command
def status(session: Session) -> None:
    """Show whether the service is ready, and its unfinished jobs.

    Example: nextchar status --server http://gpu-box:8000
    """
    response = session.client.ready()
    if session.as_json:
        session.print_json(response)
        return
    unfinished = [job for job in session.client.jobs() if job["status"] not in FINAL_STATUSES]
    session.print_text(f"{session.client.server} is {response['status']}")
    for part in response["degraded"]:
        session.print_text(f"{part['part']}: {part['problem']}; {part['effect']}")
    for job in unfinished:
        session.print_text(f"{job['id']}  {job['name']}  {status_of(job)}")


@command
def open_console(session: Session) -> None:
    """Open the service's console in a browser, and print its address.

    Example: nextchar open
    """
    url = f"{session.client.server}/"
    session.client.ready()  # otherwise a browser would show an empty window
    opened = webbrowser.open(url)
    session.print_result({"url": url, "opened": opened}, url)
    if not opened and not session.as_json:
        session.print_note("there is no browser here; open the address in one")


@command
def audit(
    session: Session,
    number: Annotated[int, Option("--number", "-n", min=1, help="The most entries.")] = 100,
    **options: Unpack[AuditOptions],
) -> None:
    """List who changed, stopped, deleted or downloaded what, newest first. Needs a key with scope admin.

    Example: nextchar audit --about names@2 --action delete_model
    """
    found = session.client.audit(**options)
    columns = {
        "time": lambda one: format_time(one["at"]),
        "key": lambda one: one["key"] or "–",
        "address": lambda one: one["address"],
        "action": lambda one: one["action"],
        "about": lambda one: one["about"] + (f" -> {one['to']}" if one["to"] else ""),
    }
    session.print_list(list(islice(found, number)), columns, if_empty="there is no such entry")


@command
def mcp(session: Session) -> None:
    """Serve tools for AI agents on standard input and output, by MCP. Needs the extra `mcp`.

    Example: nextchar mcp --server http://gpu-box:8000
    """
    try:
        from nextchar.mcp import agent_server
    except ModuleNotFoundError as error:
        needed = "install it with: pip install 'nextchar[mcp]'"
        raise fail(f"{error.name} is not installed; {needed}") from None
    server, key = session.client.server, shared_option(session.invocation, "api_key")
    agent_server(lambda: AsyncClient(server, api_key=key)).run("stdio")


def serve(
    host: Annotated[
        str | None, Option(envvar="NEXTCHAR_HOST", help="The address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        Option(envvar="NEXTCHAR_PORT", help="The port; 0 chooses a free port.", show_default="8000"),
    ] = None,
    data_dir: Annotated[
        Path | None,
        Option(
            envvar="NEXTCHAR_DATA_DIR", help="Folder for corpora, jobs and models.", show_default="./data"
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C: the API with its console, a worker, and Valkey.

    Example: nextchar serve --port 9000
    """
    with _service_packages():
        from nextchar.launcher import stack
    for name, value in (("HOST", host), ("PORT", port), ("DATA_DIR", data_dir)):
        if value is not None:
            os.environ[f"NEXTCHAR_{name}"] = str(value)
    raise typer.Exit(stack.main())


def demo(
    file: Annotated[
        Path | None,
        Argument(
            metavar="[FILE]", help="A UTF-8 text; left out: Python's language reference.", show_default=False
        ),
    ] = None,
) -> None:
    """Train on a text for a minute, complete and score it, and stop: about two minutes.

    Example: nextchar demo notes.txt
    """
    with _service_packages():
        from nextchar.launcher import demo as demonstration
    raise typer.Exit(demonstration.main(file))


@command
def doctor(session: Session) -> None:
    """Check this machine: what the service would use, and what would keep it from starting.

    Exits with 1 if something would. Kernels that are not on disk yet are compiled first.

    Example: nextchar doctor
    """
    with _service_packages():
        from nextchar.launcher.doctor import examine
        from nextchar.launcher.settings import LauncherSettings
    findings = []
    for finding in examine(LauncherSettings.load()):
        findings.append(finding)
        if not session.as_json:
            session.print_text(f"{finding.state:8}{finding.name:18}{finding.detail}")
    if session.as_json:
        session.print_json({"findings": [finding._asdict() for finding in findings]})
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(1)


def keys(context: typer.Context) -> None:
    """Make API keys for a service.

    Example: nextchar keys new laptop --scopes read,complete >> keys.txt
    """
    with _service_packages():
        from nextchar.app.access import keys as api_keys
    api_keys.main(context.args)


def admin(context: typer.Context) -> None:
    """Back up a whole installation while it runs, or restore it into an empty one.

    Example: nextchar admin backup nextchar-monday.tar
    """
    with _service_packages():
        from nextchar.launcher import backup
    backup.main(context.args)


def batches() -> Any:
    """Return the module that runs `nextchar batch`."""
    with _service_packages():
        from nextchar.launcher import batch
    return batch


@contextlib.contextmanager
def _service_packages() -> Iterator[None]:
    """Turn an import that fails into a sentence that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise fail(
            f"this command runs models by itself and needs {error.name}; install all of it with:"
            " pip install 'nextchar[serve]'"
        ) from None
