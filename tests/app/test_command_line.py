"""The command line's anomaly commands against the API itself, with an engine whose answers are obvious."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from nextchar.cli.main import app
from typer.testing import CliRunner

from tests.app.fakes import publish
from tests.app.service import Service

Run = Callable[..., Result]


@pytest.fixture
def run(service: Service) -> Run:
    """Run a command against the service."""

    def invoke(*arguments: str, stdin: str | bytes = "") -> Result:
        server = str(service.http.base_url)
        return CliRunner().invoke(app, [*arguments, "--server", server], input=stdin, prog_name="nextchar")

    return invoke


def test_odd_lines_are_calibrated_for_found_and_judged(run: Run, service: Service, tmp_path: Path) -> None:
    publish(service.models)
    normal = [("ab" * (1 + i % 9) + "→" * (i % 11 == 0)) for i in range(120)]
    assert run("score", "-m", "fake", stdin="→→→→\n").exit_code == 2  # nothing to compare with
    made = run("calibrate", "fake", "--name", "host1", "--json", stdin="\n".join(normal))
    assert json.loads(made.stdout)["lines"] == 120
    odd = ("score", "-m", "fake", "--calibration", "host1", "--false-alarms", "0.02")
    found = run(*odd, stdin="abab\nab→→→→ab\nabab\n".encode() + b"ab\xff\xff\xff\xff\xff\n")
    assert (found.exit_code, found.stdout) == (0, "ab→→→→ab\nab�����\n")
    assert "not UTF-8: byte 0xff at offset 29" in found.stderr
    told = [
        json.loads(line)
        for line in run(*odd, "--json", "--expected", "2", stdin="ab→→→→ab").stdout.splitlines()
    ]
    assert (told[0]["spans"][0]["start"], len(told[0]["expected"])) == (2, 8)
    assert told[-1]["calibration"]["name"] == "host1"
    assert run(*odd, stdin="abab\n").exit_code == 1
    assert run(*odd, "--context", "stream", stdin="abab\nab→→→→ab\n").stdout == "ab→→→→ab\n"
    labelled = [f"0\t{line}\n" for line in normal] + [f"1\tab→→→→{'ab' * i}\n" for i in range(40)]
    (tmp_path / "t.tsv").write_text("".join(labelled))
    judged = json.loads(run("evaluate", "fake", str(tmp_path / "t.tsv"), "--json").stdout)
    assert (judged["split"], judged["lines"], judged["anomalous"]) == ("chronological", 80, 40)
    assert judged["model_score"]["auroc"] > judged["baselines"]["length"]["auroc"]
    assert "isolation forest" in run("evaluate", "fake", str(tmp_path / "t.tsv")).stdout
    assert run("calibrate", "fake", "--delete", "host1").exit_code == 0
    assert run("calibrate", "fake", "--list").stdout == ""


def test_a_model_of_bytes_is_shown_in_characters(run: Run, service: Service) -> None:
    publish(service.models, name="raw", characters="\n ab", alphabet="bytes")
    assert "é⏎" in run("score", "raw", stdin="é\n").stdout
    shown = run("score", "-m", "raw", "--all", stdin="aé\n")
    assert shown.exit_code == 1
    assert "aé\n █" in shown.stdout
