"""A program that uses the clients is type-checked: responses, arguments and streams have types."""

import re
import subprocess
import sys
from pathlib import Path

import nextchar

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


def checked(folder: Path, program: str, configuration: str = _CONFIGURATION) -> str:
    """Return what mypy says of a program."""
    (folder / "program.py").write_text(program)
    (folder / "mypy.ini").write_text(configuration)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "program.py"],
        env={"MYPYPATH": str(_ROOT / "clients" / "python"), "PATH": ""},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def test_responses_and_arguments_have_types(tmp_path: Path) -> None:
    said = checked(tmp_path, _PROGRAM)
    wanted = {
        (number, line.partition("# error: ")[2])
        for number, line in enumerate(_PROGRAM.splitlines(), 1)
        if "# error: " in line
    }
    found = {
        (int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]"))
        for line in said.splitlines()
        if ": error: " in line
    }
    assert found == wanted, said


def test_each_public_function_says_what_it_returns(tmp_path: Path) -> None:
    classes = ("Client", "AsyncClient", "TrainingJob", "AsyncTrainingJob", "Model", "Heatmap")
    names = [f"nextchar.{name}" for name in dir(nextchar) if not isinstance(getattr(nextchar, name), type)]
    names += [
        f"nextchar.{of}.{name}"
        for of in classes
        for name in dir(getattr(nextchar, of))
        if not name.startswith("_")
    ]
    program = "\n".join(["import nextchar", *(f"reveal_type({name})  # {name}" for name in names)])
    said = checked(tmp_path, program, _CONFIGURATION.replace(",nextchar.local,nextchar.local_training", ""))
    types = [line.partition('Revealed type is "')[2] for line in said.splitlines()]
    assert len(types) == len(names) > 150, said
    is_vague = re.compile(r'(^|-> |Coroutine\[Any, Any, )Any\]?"$').search
    vague = [name for name, kind in zip(names, types, strict=True) if is_vague(kind)]
    assert vague == ["nextchar.Model.history"]  # a data frame, if pandas is installed


def test_old_names_of_types_still_work() -> None:
    from nextchar import answers, types

    assert answers.OddSpan is types.AnomalousSpan and answers.Completion is types.Completion
