"""A program that uses the clients is type-checked: responses, arguments and streams have types."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

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

[mypy-httpx.*]
follow_imports = skip

[mypy-nextchar.*]
ignore_errors = true
"""

_CLASSES = ("Client", "AsyncClient", "TrainingJob", "AsyncTrainingJob", "Model", "Heatmap")


@cache
def _public() -> list[str]:
    """The names of all public functions, which are loaded by this."""
    names = [f"nextchar.{name}" for name in dir(nextchar) if not isinstance(getattr(nextchar, name), type)]
    return names + [
        f"nextchar.{of}.{name}"
        for of in _CLASSES
        for name in dir(getattr(nextchar, of))
        if not name.startswith("_")
    ]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy says of two programs: the one above, and one that asks for the type of all that is public."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "program.py").write_text(_PROGRAM)
    asked = (f"reveal_type({name})  # {name}" for name in _public())
    (folder / "asked.py").write_text("\n".join(["import nextchar", *asked]))
    (folder / "mypy.ini").write_text(_CONFIGURATION)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "program.py", "asked.py"],
        env={"MYPYPATH": str(_ROOT / "clients" / "python"), "PATH": ""},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def test_responses_and_arguments_have_types(said: str) -> None:
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


def test_each_public_function_says_what_it_returns(said: str) -> None:
    types = [kind for line in said.splitlines() if (kind := line.partition('Revealed type is "')[2])]
    assert len(types) == len(_public()) > 150, said
    is_vague = re.compile(r'(^|-> |Coroutine\[Any, Any, )Any\]?"$').search
    vague = [name for name, kind in zip(_public(), types, strict=True) if is_vague(kind)]
    assert vague == ["nextchar.Model.history"]  # a data frame, if pandas is installed


def test_old_names_of_types_still_work() -> None:
    from nextchar import answers, types

    assert answers.OddSpan is types.AnomalousSpan and answers.Completion is types.Completion
