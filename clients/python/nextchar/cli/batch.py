"""`nextchar batch score` and `batch complete`: the lines of many files, in worker processes or on Ray."""

import inspect
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Annotated, Any, Literal, Unpack

import typer
from rich.progress import track
from typer import Argument, Option

from nextchar.cli.fields import error_with_options
from nextchar.cli.formatting import format_duration
from nextchar.cli.service import batches
from nextchar.cli.session import Session, command, fail
from nextchar.options import CompletionOptions, LineOptions

_how = partial(Option, rich_help_panel="How it runs")

app = typer.Typer(
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
        app.command(operation.__name__)(command(run, without=without))

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
    started, module, counts, errors = time.monotonic(), batches(), Counter[str](), list[str]()
    try:
        parts, missing, results = module.begin(output=output, part_bytes=part_bytes, **options)
        is_hidden = not session.err.is_terminal
        with closing(results):
            for result in track(results, "parts", missing, console=session.err, disable=is_hidden):
                errors.append(result) if isinstance(result, str) else counts.update(result)
    except module.DomainError as error:
        raise fail(error_with_options(error.message, error.param, session.invocation)) from None
    except ModuleNotFoundError as error:
        needed = "install it with: pip install 'nextchar[ray]', or use --engine local --format jsonl"
        raise fail(f"{error.name} is not installed; {needed}") from None
    except KeyboardInterrupt:
        session.print_note("interrupted; run the same command again to continue")
        raise
    summary: dict[str, Any] = {"output": output, "parts": parts, "parts_before": parts - missing}
    summary |= {"parts_done": missing - len(errors)}
    summary |= {name: counts[name] for name in ("lines", "characters", "anomalous", "not_utf8")}
    if session.as_json:
        session.print_json(summary | {"errors": errors})
    else:
        sentence = "{lines:,} lines, {anomalous:,} flagged, {not_utf8:,} not UTF-8; {parts_done:,} of"
        sentence += " {parts:,} parts ({parts_before:,} were there before) in {duration}; results in {output}"
        duration = format_duration(time.monotonic() - started)
        session.print_note(sentence.format(**summary, duration=duration))
    for message in errors[:10]:
        session.print_note(message)
    if errors:
        raise fail(f"{len(errors):,} parts have no results; fix these errors and run the same command again")


@_command("alerts", "context", "detail", "expected", "precision", "repeats", "source", "stream_id")
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
