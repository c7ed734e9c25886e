"""A model with random weights in a storage of its own, a file of lines, and the command."""

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nextchar.cli.main import app
from nextchar.launcher import batch
from tests.app.test_main import publish_real
from tests.clients.python.conftest import Outcome

LINES = [f"line {'abcdefghij'[i % 10]} {'qwertz'[i % 6] * (i % 17)}" for i in range(400)]

Command = Callable[..., Outcome]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder with the model `real`."""
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    publish_real(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file of LINES."""
    path = tmp_path / "app.log"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


@pytest.fixture
def command(storage: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`nextchar batch`, with a worker in this process, since one of its own takes seconds to start."""

    @contextmanager
    def work_here(work: batch.Work, _: int) -> Iterator[batch.Process]:
        work = pickle.loads(pickle.dumps(work))  # noqa: S301
        with closing(work.model):
            yield lambda tasks: map(work.process, tasks)

    def invoke(operation: str, *arguments: str | Path) -> Outcome:
        shared = ("--model", "real", "--engine", "local", "--part-size", "0.001")
        result = CliRunner().invoke(app, ("batch", operation, *shared, *map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, " ".join(result.stderr.split()))

    monkeypatch.setattr(batch, "_in_processes", work_here)
    return invoke


def results(output: Path) -> list[dict[str, Any]]:
    """Return the records in all parts, in the order of the parts' names."""
    parts = sorted((output / "parts").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
