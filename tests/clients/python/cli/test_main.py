"""Every command, its output through a pipe, its JSON, its help and its completion by shells."""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text

from nextchar.cli.main import app
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer

_COMMANDS = [
    ("status",),
    ("corpus", "list"),
    ("corpus", "show", "words"),
    ("corpus", "rm", "words"),
    ("train", "words", "--name", "fake", "--no-follow"),
    ("jobs",),
    ("jobs", "show", "job_1"),
    ("jobs", "cancel", "job_1"),
    ("jobs", "pause", "job_1"),
    ("models",),
    ("models", "show", "fake"),
    ("models", "rename", "fake@1", "fake"),
    ("report", "fake"),
    ("calibrate", "fake", "--list"),
    ("models", "rm", "fake"),
    ("complete", "fake", "hello"),
    ("next", "fake", "phil"),
]


@pytest.mark.parametrize("arguments", _COMMANDS, ids=" ".join)
def test_every_command_works_plain_and_as_json(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "words.txt").write_text("some words\n")
    assert run("corpus", "add", str(tmp_path / "words.txt")).status == 0
    as_json = run(*arguments, "--json")
    assert (as_json.status, as_json.err) == (0, "")
    assert isinstance(as_json.json, dict)
    plain = run(*arguments)
    assert plain.status == 0
    assert plain.out
    assert "\x1b" not in plain.out.replace(
        "\x1b[2J", ""
    )  # the fake completes with one, and a pipe gets it raw


# In one process, which imports once what each call of a shell would.
_COMPLETE = """
import contextlib, os, sys
from nextchar.cli.main import app

for words in sys.argv[1:]:
    os.environ |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    with contextlib.suppress(SystemExit):
        app(prog_name="nextchar")
    print("END")
"""


def _shell_completions(server: str, *lines: str) -> list[set[str]]:
    request = {"_NEXTCHAR_COMPLETE": "complete_bash", "NEXTCHAR_SERVER": server}
    done = subprocess.run(
        [sys.executable, "-c", _COMPLETE, *lines],
        env=os.environ | request,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [set(found.split()) for found in done.stdout.split("END\n")[:-1]]


def test_shells_complete_commands_options_and_names(run: Run, server: FakeServer) -> None:
    run("corpus", "add", "-", "--name", "words", stdin="some words")
    completions = {
        "nextchar co": {"complete", "corpus", "counts"},
        "nextchar complete --inter": {"--interactive"},
        "nextchar complete ": {"fake"},
        "nextchar models show fake@": {"fake@1", "fake@2"},
        "nextchar score f": {"fake"},
        "nextchar score fake f": set(),  # a file, which the shell completes
        "nextchar score --model f": {"fake"},
        "nextchar jobs show ": {"job_1"},
        "nextchar train w": {"words"},
    }
    found = _shell_completions(server.url, *completions)
    assert dict(zip(completions, found, strict=True)) == completions


def test_shells_complete_nothing_without_a_service() -> None:
    assert _shell_completions("http://127.0.0.1:9", "nextchar complete ") == [set()]


def test_version_is_printed(run: Run) -> None:
    assert run("--version").out == f"nextchar {importlib.metadata.version('nextchar')}\n"


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))


@pytest.mark.parametrize("path", list(_commands(typer.main.get_command(app))), ids=" ".join)
def test_every_help_text_has_an_example_of_its_command(run: Run, path: tuple[str, ...]) -> None:
    if path in (("keys",), ("admin",)):
        return  # it passes --help on to its own parser
    shown = " ".join(run(*path, "--help").out.split())
    assert re.search(rf"Examples?: (.*\| )?nextchar {' '.join(path)}", shown)


def _help_texts(command: Any) -> Iterator[str]:
    yield from (text for parameter in command.params if (text := getattr(parameter, "help", None)))
    yield command.help or ""
    for one in getattr(command, "commands", {}).values():
        yield from _help_texts(one)


def test_no_help_text_has_brackets_that_are_taken_for_markup() -> None:
    texts = list(_help_texts(typer.main.get_command(app)))
    assert len(texts) > 200
    for text in texts:
        assert not Text.from_markup(text).spans and "[/" not in text, text


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "c", "--name", "n", "--steps", "1", "--seconds", "1"),
        ("complete", "fake", "p", "--until", "never"),
        ("complete", "fake", "p", "--stream", "-n", "2"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_status_2(run: Run, server: FakeServer, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).status == 2
    assert not server.requests


def test_ctrl_c_while_the_command_starts_ends_it_without_a_traceback() -> None:
    code = """
import sys

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "nextchar.cli.training":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from nextchar.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=500
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
