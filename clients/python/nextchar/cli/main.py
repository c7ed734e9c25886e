"""The command `nextchar`: its options and the groups of commands.

Results go to standard output, everything else to standard error.
"""

import importlib.metadata
from typing import Annotated

import typer
from typer import Option

from nextchar.cli import (
    acceptance,
    alerts,
    completion,
    corpora,
    evaluation,
    jobs,
    models,
    report,
    scoring,
    service,
    training,
    watch,
)
from nextchar.cli.names import ApiKeyFromEnvironment, AsJson, ServerFromEnvironment
from nextchar.client import DEFAULT_SERVER

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        try:
            print(f"nextchar {importlib.metadata.version('nextchar')}")
        except importlib.metadata.PackageNotFoundError:
            print("nextchar, not installed")
        raise typer.Exit


@app.callback()
def options(
    *,
    server: ServerFromEnvironment = DEFAULT_SERVER,
    api_key: ApiKeyFromEnvironment = None,
    as_json: AsJson = False,
    version: Annotated[
        bool, Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train character-level language models on your text; complete and score text with them.

    Example: nextchar train notes.txt
    """


app.command()(training.train)
app.command()(models.pack)
app.command()(completion.complete)
app.command("next")(completion.next_character)
app.command()(completion.suggest)
app.command()(scoring.score)
app.command()(watch.watch)
app.command()(scoring.calibrate)
app.command()(evaluation.evaluate)
app.command()(acceptance.acceptance)
app.command()(acceptance.counts)
app.add_typer(service.batch, name="batch")
app.add_typer(alerts.app, name="alerts")
app.add_typer(alerts.targets, name="targets")
app.command("audit")(service.audit)
app.command("report")(report.report)
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(corpora.app, name="corpus")
app.command()(service.status)
app.command("open")(service.open_console)
app.command()(service.mcp)
app.command()(service.serve)
app.command()(service.demo)
app.command()(service.doctor)
# Its own parser reads the arguments, `--help` included.
_UNPARSED = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(context_settings=_UNPARSED)(service.keys)
app.command(context_settings=_UNPARSED)(service.admin)


def main() -> None:
    """Run the command that the arguments name."""
    app()
