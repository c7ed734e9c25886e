"""`nextchar batch`: its output and its errors; tests/launcher/batch has the runs themselves."""

from pathlib import Path
from typing import Any

import pytest

from nextchar.launcher.batch import runs
from nextchar.launcher.batch.inputs import InputFile, Part
from nextchar.launcher.batch.part_worker import PartResult
from nextchar.models.errors import NotFound
from tests.clients.python.conftest import Run

ARGUMENTS = ("batch", "score", "a.log", "--model", "m", "--output", "out")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asks for; it gets one part with results and one without."""
    made: list[Any] = []

    def score(options: runs.RunOptions, show: runs.OnProgress, **query: Any) -> runs.Totals:
        made.extend([options, query])
        totals = runs.Totals(parts=3, parts_before=1, bytes=30, bytes_before=10)
        show(totals, None)
        part = Part(InputFile("a.log", 30, "1"), 10, 20)
        for result in (
            PartResult(part, {"lines": 7, "anomalous": 2}),
            PartResult(part, error="b.gz is damaged"),
        ):
            totals.counts.update(result.counts)
            totals.errors += [result.error] if result.error and len(options.inputs) > 1 else []
            show(totals, result)
        return totals

    monkeypatch.setattr(runs, "score", score)
    monkeypatch.setattr(runs, "complete", lambda options, show, request: score(options, show, **request))
    return made


def test_totals_are_one_sentence_or_json(run: Run, asked: list[Any]) -> None:
    done = run(*ARGUMENTS, "--only", "anomalous", "--no-text", "--actors", "3", "--engine", "local")
    assert done.status == 0 and done.out == ""
    said = " ".join(done.err.split())
    assert "7 lines" in said and "2 of 3 parts (1 were there before); 2 flagged; results in out" in said
    options, query = asked
    assert (options.engine, options.workers, options.part_bytes) == ("local", 3, 8_000_000)
    assert query == {"calibration": None, "only": "anomalous", "echo": False, "explain": False}
    answer = run(*ARGUMENTS, "--json").json
    assert answer["lines"] == 7 and answer["parts_done"] == 2 and answer["errors"] == []


def test_part_without_results_is_named_and_the_status_is_1(run: Run, asked: list[Any]) -> None:
    failed = run("batch", "score", "a.log", "b.gz", "--model", "m", "--output", "out")
    said = " ".join(failed.err.split())
    assert failed.status == 1 and "b.gz is damaged" in said and "1 parts have no results" in said


def test_completion_options_reach_the_engine(run: Run, asked: list[Any]) -> None:
    done = run(
        *("batch", "complete", "p.txt", "-m", "m", "-o", "out", "-n", "2", "--seed", "5", "--stop", ";"),
        *("--max-characters", "9", "--json-lines", "--part-size", "0.5"),
    )
    assert done.status == 0, done.err
    options, request = asked
    assert options.is_json and options.part_bytes == 500_000
    assert request == {"max_characters": 9, "n": 2, "temperature": 1.0, "stop": (";",), "seed": 5}


@pytest.mark.parametrize("operation", ["score", "complete"])
def test_address_of_a_cluster_that_is_not_used_is_refused(run: Run, asked: list[Any], operation: str) -> None:
    given = ("batch", operation, "a.log", "-m", "m", "-o", "out", "--address", "10.0.0.7:6379")
    refused = run(*given, "--engine", "local")
    assert refused.status == 2 and "--address" in refused.err and asked == []
    assert run(*given).status == 0 and asked[0].address == "10.0.0.7:6379"


def test_refusal_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotFound("no file matches a.log", code="no_input")

    monkeypatch.setattr(runs, "score", refuse)
    refused = run(*ARGUMENTS)
    assert (refused.status, refused.err) == (1, "nextchar: no file matches a.log\n")
    assert run(*ARGUMENTS, "--false-alarms", "2").status == 2
    assert run("batch", "score", "a.log").status == 2


def test_file_that_is_not_there_is_named_by_the_whole_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    refused = run("batch", "score", "/nowhere.log", "--model", "missing", "--output", str(tmp_path / "out"))
    assert refused.status == 1 and "missing" in refused.err
    assert not (tmp_path / "out").exists()
