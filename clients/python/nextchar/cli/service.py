"""Commands about the service as a whole.

`status`, `open` and `audit` ask it; `serve`, `demo`, `doctor`, `keys`, `admin`, and `batch score` and `batch
complete` (the lines of many files, in worker processes or on Ray) need `nextchar[serve]`.
"""

import contextlib
import inspect
import os
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

import typer
from rich.progress import track
from typer import Argument, Option

from nextchar.cli.fields import error_with_options
from nextchar.cli.formatting import format_duration, format_time
from nextchar.cli.jobs import status_of
from nextchar.cli.names import shared_option
from nextchar.cli.session import Session, command, fail
from nextchar.client import AsyncClient
from nextchar.options import AuditOptions, CompletionOptions, LineOptions
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
        from nextchar.launcher import batch as module
    return module


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


_how = partial(Option, rich_help_panel="How it runs")

batch = typer.Typer(
    no_args_is_help=True,
    help="Score or complete the lines of many files, without a service: here or on a Ray cluster.\n\n"
    "Example: nextchar batch score 'logs/*.gz' --model app --output scores",
)


def _command(*without: str) -> Callable[[Callable[..., dict[str, Any]]], None]:
    """Return a decorator that adds a command with the options of a function and those of `_shared`."""

    def add(operation: Callable[..., dict[str, Any]]) -> None:
        own, shared = (inspect.signature(f, eval_str=True).parameters for f in (operation, _shared))

        def run(session: Session, **options: Any) -> None:
            how = {name: options.pop(name) for name in shared if name in options}
            _run(session, **how, **operation(**options))

        run.__signature__ = inspect.Signature([*shared.values(), *own.values()])  # type: ignore[attr-defined]
        run.__doc__ = operation.__doc__
        batch.command(operation.__name__)(command(run, without=without))

    return add


def _shared(
    session: Session,
    *,
    inputs: Annotated[list[str], Argument(metavar="INPUT…", help="Files or patterns: s3://logs/**/*.gz")],
    source: Annotated[str, Option("--model", "-m", help="A folder with a model, or one in the storage.")],
    output: Annotated[str, Option("--output", "-o", metavar="FOLDER", help="A folder, or its URL.")],
    is_json: Annotated[bool, Option("--json-lines", help='Lines are "…" or {"line": "…", …}.')] = False,
    format: Annotated[Literal["jsonl", "parquet"], Option(help="Of the results.")] = "jsonl",  # noqa: A002
    engine: Annotated[Literal["ray", "local"], _how(help="Ray Data, or processes here.")] = "ray",
    actors: Annotated[int | None, _how(min=1, help="Workers. Default: one per core here.")] = None,
    threads: Annotated[int, _how(min=1, help="Cores of each worker.")] = 1,
    address: Annotated[str | None, _how(help="Of a Ray cluster. Default: RAY_ADDRESS.")] = None,
    part_size: Annotated[float | None, _how(min=0.001, help="Of plain files, MB. Default: 8 or 1.")] = None,
) -> None:
    """Have the options that both commands have."""


def _run(session: Session, output: str, part_size: float | None, **options: Any) -> None:
    if options["address"] is not None and options["engine"] != "ray":
        raise typer.BadParameter("--address is of a Ray cluster, which --engine local does not use")
    part_bytes = int((part_size or (8 if "query" in options else 1)) * 1e6)
    started, module, counts = time.monotonic(), batches(), Counter[str]()
    try:
        parts, before, steps, following = module.begin(output=output, part_bytes=part_bytes, **options)
        with closing(following):
            shown = track(following, "parts", steps, console=session.err, disable=not session.err.is_terminal)
            results = list(shown)
    except module.DomainError as error:
        raise fail(error_with_options(error.message, error.param, session.invocation)) from None
    except ModuleNotFoundError as error:
        needed = "install it with: pip install 'nextchar[ray]', or use --engine local --format jsonl"
        raise fail(f"{error.name} is not installed; {needed}") from None
    except KeyboardInterrupt:
        session.print_note("interrupted; run the same command again to continue")
        raise
    for result in results:
        counts.update(result.counts)
    errors, changes = ([text for one in results if (text := getattr(one, of))] for of in ("error", "change"))
    summary: dict[str, Any] = {"output": output, "parts": parts, "parts_before": before}
    summary |= {"parts_done": counts["parts"]}
    summary |= {name: counts[name] for name in ("lines", "characters", "anomalous", "repeated", "not_utf8")}
    if session.as_json:
        session.print_json(summary | {"changes": changes, "errors": errors})
    else:
        sentence = "{lines:,} lines, {anomalous:,} flagged, {repeated:,} repeats, {not_utf8:,} not UTF-8;"
        sentence += " {parts_done:,} of {parts:,} parts ({parts_before:,} were there before) in {duration};"
        sentence += " results in {output}"
        duration = format_duration(time.monotonic() - started)
        session.print_note(sentence.format(**summary, duration=duration))
    for message in [*errors[:10], *changes[:10]]:
        session.print_note(message)
    if errors:
        left = parts - before - counts["parts"]
        raise fail(f"{left:,} parts have no results; fix these errors and run the same command again")


@_command("alerts", "context", "detail", "expected", "precision", "source", "stream_id")
def score(
    *,
    text: Annotated[bool, Option(help="Whether results have the text of their line.")] = True,
    **options: Unpack[LineOptions],
) -> dict[str, Any]:
    """Score each line of many files; each result has the line's file and offset in bytes.

    Example: nextchar batch score 's3://logs/2026/*.gz' --model sshd --output s3://scores/2026
    """
    return {"query": {"echo": text, **options}}


@_command("best_of", "echo", "logprobs", "timeout_ms")
def complete(**options: Unpack[CompletionOptions]) -> dict[str, Any]:
    """Complete each line of many files, as a prompt; each result has the line's file and offset in bytes.

    Example: nextchar batch complete prompts.txt --model names --output completions --engine local
    """
    return {"request": {**options, "stop": tuple(options.get("stop") or ())}}
