"""A model with random weights in a storage of its own, files of lines, and the runs over them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextchar.launcher.batch import runs
from nextchar.launcher.batch.runs import RunOptions, Totals
from tests.app.test_main import publish_real

LINES = [f"line {'abcdefghij'[i % 10]} {'qwertz'[i % 6] * (i % 17)}" for i in range(400)]

Run = Callable[..., Totals]


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


def options(log: Path | str, output: Path | str, **changes: Any) -> RunOptions:
    """Return options for the model `real` that divide LINES into six parts."""
    return RunOptions(
        **{
            "inputs": [str(log)],
            "model": "real",
            "output": str(output),
            "engine": "local",
            "workers": 2,
            "part_bytes": 1_000,
        }
        | changes
    )


def score(log: Path | str, output: Path | str, *, echo: bool = True, **changes: Any) -> Totals:
    """Score the lines of a file."""
    return runs.score(options(log, output, **changes), lambda *_: None, echo=echo)


def results(output: Path) -> list[dict[str, Any]]:
    """Return the records in all parts, in the order of the parts' names."""
    parts = sorted((output / "parts").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
