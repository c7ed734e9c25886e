"""The fake server, and the command line run against it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from nextchar.cli.main import app
from tests.clients.python.fake_server import FakeServer


@dataclass(frozen=True)
class Outcome:
    """What a command has left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def run(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, its output piped."""
    monkeypatch.setenv("NEXTCHAR_SERVER", server.url)
    monkeypatch.delenv("NEXTCHAR_API_KEY", raising=False)

    def invoke(*arguments: str, stdin: str | bytes = "") -> Outcome:
        result = CliRunner().invoke(app, arguments, input=stdin, prog_name="nextchar")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return invoke


def in_shell(server: FakeServer, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a nextchar command in a shell of its own, so with real pipes."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m nextchar {command}"],
        env={**os.environ, "NEXTCHAR_SERVER": server.url, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
