"""A program that uses the clients is type-checked: responses, arguments and streams have types."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_PROGRAM = """
from typing import assert_type

from nextchar import AsyncClient, AsyncTrainingJob, Client, TrainingJob
from nextchar.types import Completion, Corpus, Distribution, Event, ScoredLine


def blocking(client: Client) -> None:
    assert_type(client.add_corpus("text", name="n"), Corpus)
    assert_type(client.complete("m", "prompt", seed=1), Completion)
    assert_type(client.train("corpus", name="n", seconds=1), TrainingJob)
    assert_type(client.train("corpus", name="n").wait(), str)
    for event in client.follow("job"):
        assert_type(event, Event)
    for line in client.score_lines("m", ["a"], false_alarms=0.1):
        assert_type(line, ScoredLine)
    client.complete("m", 3)  # error: arg-type
    client.complete("m", "prompt", sed=1)  # error: call-arg
    client.train("corpus")  # error: call-arg


async def awaited(client: AsyncClient) -> None:
    assert_type(await client.next("m", "prompt"), Distribution)
    assert_type(await client.train("corpus", name="n"), AsyncTrainingJob)
    async for event in client.follow("job"):
        assert_type(event, Event)
    client.next("m", "prompt")  # error: unused-coroutine
"""

_CONFIGURATION = """
[mypy]
strict = true
enable_error_code = unused-coroutine
error_summary = false

[mypy-httpx.*,nextchar.local,nextchar.local_training]
follow_imports = skip

[mypy-nextchar.*]
ignore_errors = true
"""


def test_responses_and_arguments_have_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    (tmp_path / "mypy.ini").write_text(_CONFIGURATION)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", str(program)],
        env={"MYPYPATH": str(_ROOT / "clients" / "python"), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = {
        (number, line.partition("# error: ")[2])
        for number, line in enumerate(_PROGRAM.splitlines(), 1)
        if "# error: " in line
    }
    found = {
        (int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]"))
        for line in checked.stdout.splitlines()
        if ": error: " in line
    }
    assert found == wanted, checked.stdout + checked.stderr


def test_old_names_of_types_still_work() -> None:
    from nextchar import answers, types

    assert answers.OddSpan is types.AnomalousSpan and answers.Completion is types.Completion
