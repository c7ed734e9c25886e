"""The command line's anomaly commands against the API itself, with a fake engine of obvious answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from nextchar.cli.main import app
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


def test_anomalous_lines_are_calibrated_for_flagged_and_evaluated(
    run: Run, service: Service, tmp_path: Path
) -> None:
    publish(service.models)
    normal = [("ab" * (1 + i % 9) + "→" * (i % 11 == 0)) for i in range(120)]
    assert run("score", "-m", "fake", stdin="→→→→\n").exit_code == 2  # nothing to compare with
    made = run("calibrate", "fake", "--name", "host1", "--json", stdin="\n".join(normal))
    assert json.loads(made.stdout)["lines"] == 120
    flagging = ("score", "-m", "fake", "--calibration", "host1", "--false-alarms", "0.02")
    found = run(*flagging, stdin="abab\nab→→→→ab\nabab\n".encode() + b"ab\xff\xff\xff\xff\xff\n")
    assert (found.exit_code, found.stdout) == (0, "ab→→→→ab\nab�����\n")
    assert "not UTF-8: byte 0xff at offset 29" in found.stderr
    records = [
        json.loads(line)
        for line in run(*flagging, "--json", "--expected", "2", stdin="ab→→→→ab").stdout.splitlines()
    ]
    assert (records[0]["spans"][0]["start"], len(records[0]["expected"])) == (2, 8)
    assert records[-1]["calibration"]["name"] == "host1"
    assert run(*flagging, stdin="abab\n").exit_code == 1
    assert run(*flagging, "--context", "stream", stdin="abab\nab→→→→ab\n").stdout == "ab→→→→ab\n"
    labeled = [f"0\t{line}\n" for line in normal] + [f"1\tab→→→→{'ab' * i}\n" for i in range(40)]
    (tmp_path / "t.tsv").write_text("".join(labeled))
    evaluated = json.loads(run("evaluate", "fake", str(tmp_path / "t.tsv"), "--json").stdout)
    assert (evaluated["split"], evaluated["lines"], evaluated["anomalous"]) == ("chronological", 80, 40)
    assert evaluated["model_score"]["auroc"] > evaluated["baselines"]["length"]["auroc"]
    assert "isolation forest" in run("evaluate", "fake", str(tmp_path / "t.tsv")).stdout
    assert run("calibrate", "fake", "--delete", "host1").exit_code == 0
    assert run("calibrate", "fake", "--list").stdout == ""


def test_a_model_of_bytes_is_shown_in_characters(run: Run, service: Service) -> None:
    publish(service.models, name="raw", characters="\n ab", alphabet="bytes")
    assert "é⏎" in run("score", "raw", stdin="é\n").stdout
    shown = run("score", "-m", "raw", "--all", stdin="aé\n")
    assert shown.exit_code == 1
    assert "aé\n █" in shown.stdout


def test_models_are_exported_imported_and_renamed(run: Run, service: Service, tmp_path: Path) -> None:
    publish(service.models)
    archive, folder = str(tmp_path / "fake.tar"), str(tmp_path / "folder")
    assert run("models", "export", "fake", "--to", archive).exit_code == 0
    assert run("models", "download", "fake", "--to", folder).exit_code == 0
    assert json.loads(run("models", "import", archive, "--json").stdout)["id"] == "fake@2"
    assert json.loads(run("models", "import", folder, "--name", "copy", "--json").stdout)["id"] == "copy@1"
    assert run("models", "rename", "fake@2", "other").stdout == "other@1\n"
    listed = run("models").stdout.splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == ["copy@1", "fake@1", "other@1"]
