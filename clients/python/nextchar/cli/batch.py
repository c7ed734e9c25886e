"""`nextchar batch score` and `batch complete`: the lines of many files, in worker processes or on Ray."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from nextchar.cli.formatting import format_duration
from nextchar.cli.service import batch_runs
from nextchar.cli.session import Session, command, fail
from nextchar.connection import omit_none

app = typer.Typer(
    no_args_is_help=True,
    help="Score or complete the lines of many files, without a service: here or on a Ray cluster.\n\n"
    "Example: nextchar batch score 'logs/*.gz' --model app --output scores",
)

_MAX_SHOWN_ERRORS = 10
_run_option = partial(typer.Option, rich_help_panel="How it runs")

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT…", help="Files, or patterns of files: logs/*.gz, s3://bucket/2026/**/*.log"
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A folder with a model, or a model in the storage of NEXTCHAR_DATA_DIR or NEXTCHAR_STORE_URL.",
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder or s3://bucket/folder for the results. The same command again completes it.",
    ),
]
JsonLines = Annotated[
    bool,
    typer.Option("--json-lines", help='Each line is a JSON string, or {"line": "…", "id": …}.'),
]
FormatOption = Annotated[
    Literal["jsonl", "parquet"],
    typer.Option("--format", help="Format of the results: JSON lines or Parquet."),
]
Engine = Annotated[
    Literal["ray", "local"],
    _run_option("--engine", help="ray: Ray Data (pip install 'nextchar\\[ray]'); local: processes."),
]
Actors = Annotated[
    int | None,
    _run_option("--actors", min=1, help="Workers, each with a model in memory. Default: one per core here."),
]
Threads = Annotated[int, _run_option("--threads", min=1, help="Cores of each worker.")]
Address = Annotated[
    str | None,
    _run_option(
        "--address",
        metavar="HOST:PORT",
        help="Address of a Ray cluster. Default: RAY_ADDRESS, or this machine.",
    ),
]
PartSize = Annotated[
    float,
    _run_option(
        "--part-size", metavar="MB", min=0.001, help="Size of a part of a file that is not compressed."
    ),
]


@app.command("score")
@command
def score(
    session: Session,
    inputs: Inputs,
    model: ModelOption,
    output: Output,
    only: Annotated[Literal["all", "anomalous"], typer.Option(help="Which lines have a result.")] = "all",
    text: Annotated[bool, typer.Option(help="Whether results have the text of their line.")] = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Explain the most anomalous lines; takes longer.")
    ] = False,
    false_alarms: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Fraction of normal lines that may be flagged. Default: 0.01."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="NAME", help="Calibration in the storage to compare with.")
    ] = None,
    json_lines: JsonLines = False,
    format_: FormatOption = "jsonl",
    engine: Engine = "ray",
    actors: Actors = None,
    threads: Threads = 1,
    address: Address = None,
    part_size: PartSize = 8.0,
) -> None:
    """Score each line of many files; each result has the line's file and offset in bytes.

    Example: nextchar batch score 's3://logs/2026/*.gz' --model sshd --output s3://scores/2026
    """
    if false_alarms is not None and not 0 < false_alarms <= 0.5:
        raise typer.BadParameter("--false-alarms is above 0 and at most 0.5")
    _check_address(address, engine)
    runs = batch_runs()
    options = runs.RunOptions(
        inputs, model, output, engine, actors, address, int(part_size * 1e6), format_, json_lines, threads
    )
    query = omit_none(false_alarms=false_alarms) | {"only": only, "echo": text, "explain": explain}
    _run(session, runs, output, lambda show: runs.score(options, show, calibration=calibration, **query))


@app.command("complete")
@command
def complete(
    session: Session,
    inputs: Inputs,
    model: ModelOption,
    output: Output,
    max_characters: Annotated[int, typer.Option(min=1, max=100_000, help="Of each completion.")] = 40,
    n: Annotated[int, typer.Option("-n", min=1, max=64, help="Completions of each line.")] = 1,
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="0: always the most probable character.")
    ] = 1.0,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; can be repeated.")] = None,
    until: Annotated[
        Literal["word", "line", "confidence"] | None, typer.Option(help="Where to end earlier.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    json_lines: JsonLines = False,
    format_: FormatOption = "jsonl",
    engine: Engine = "ray",
    actors: Actors = None,
    threads: Threads = 1,
    address: Address = None,
    part_size: PartSize = 1.0,
) -> None:
    """Complete each line of many files, as a prompt; each result has the line's file and offset in bytes.

    Example: nextchar batch complete prompts.txt --model names --output completions --engine local
    """
    _check_address(address, engine)
    runs = batch_runs()
    options = runs.RunOptions(
        inputs, model, output, engine, actors, address, int(part_size * 1e6), format_, json_lines, threads
    )
    request = omit_none(top_p=top_p, until=until, seed=seed) | {
        "max_characters": max_characters,
        "n": n,
        "temperature": temperature,
        "stop": tuple(stop or ()),
    }
    _run(session, runs, output, lambda show: runs.complete(options, show, request))


def _check_address(address: str | None, engine: str) -> None:
    if address is not None and engine != "ray":
        raise typer.BadParameter("--address is of a Ray cluster, which --engine local does not use")


def _run(session: Session, runs: Any, output: str, run: Callable[[Callable[..., None]], Any]) -> None:
    started = time.monotonic()
    try:
        with _progress(session) as show:
            totals = run(show)
    except runs.DomainError as error:
        raise fail(error.message) from None
    except KeyboardInterrupt:
        session.print_note("interrupted; run the same command again to continue")
        raise
    counts = {name: totals.counts[name] for name in ("lines", "characters", "anomalous", "not_utf8")}
    done = totals.parts - totals.parts_before - len(totals.errors)
    if session.as_json:
        summary = {"output": output, "parts": totals.parts, "parts_before": totals.parts_before}
        session.print_json(summary | {"parts_done": done} | counts | {"errors": totals.errors})
    else:
        duration = format_duration(time.monotonic() - started)
        sentence = f"{counts['lines']:,} lines in {duration}, {done:,} of {totals.parts:,} parts"
        sentence += f" ({totals.parts_before:,} were there before)" if totals.parts_before else ""
        sentence += f"; {counts['anomalous']:,} flagged" if "anomalous" in totals.counts else ""
        sentence += f"; {counts['not_utf8']:,} not UTF-8" if counts["not_utf8"] else ""
        session.print_note(f"{sentence}; results in {output}")
    if totals.errors:
        for message in totals.errors[:_MAX_SHOWN_ERRORS]:
            session.print_note(message)
        raise fail(
            f"{len(totals.errors):,} parts have no results; fix the errors above and run the same command"
            " again to do the rest"
        )


@contextlib.contextmanager
def _progress(session: Session) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error; give what a run calls with its totals."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=session.err, disable=not session.err.is_terminal) as bar:
        task = bar.add_task("starting workers", total=None, figures="")

        def show(totals: Any, result: Any) -> None:
            if result is None:
                bar.update(task, total=totals.bytes, completed=totals.bytes_before)
                return
            flagged = f", {totals.counts['anomalous']:,} flagged" if totals.counts["anomalous"] else ""
            figures = f"{totals.counts['lines']:,} lines{flagged}"
            bar.update(task, description="running", advance=result.part.bytes, figures=figures)

        yield show
