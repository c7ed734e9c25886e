"""`nextchar train` sends the options that were given, uploads files, and reports the result."""

import gzip
import json
from pathlib import Path

import pytest

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer, FakeTraining


def test_train_sends_the_given_options_only(run: Run, server: FakeServer) -> None:
    run("train", "c", "--name", "n", "--no-follow")
    changes = "--preset tiny --steps 9 --units 64 --rows 4 --seed 3 --validation-fraction 0.2 --kind records"
    run("train", "c", "--name", "n", "--no-follow", "--no-mixture", *changes.split())
    plain, full = server.bodies("POST", "/v1/jobs")
    assert plain == {"corpus": "c", "name": "n"}
    assert full == {
        "corpus": "c",
        "name": "n",
        "preset": "tiny",
        "validation_fraction": 0.2,
        "kind": "records",
        "mixture": False,
        "seed": 3,
        "budget": {"steps": 9},
        "network": {"units": 64},
        "training": {"rows": 4},
    }


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ("--masks timestamp,long_numbers", ["timestamp", "long_numbers"]),
        ("--masks none", []),
        ("--masks ip --masks id=[a-z]{3,5}", ["ip", "id=[a-z]{3,5}"]),
    ],
)
def test_train_sends_masks(run: Run, server: FakeServer, options: str, masks: list[str]) -> None:
    run("train", "c", "--name", "n", "--no-follow", *options.split())
    (body,) = server.bodies("POST", "/v1/jobs")
    assert body["masks"] == masks


def test_train_ends_with_the_result_of_the_best_weights(run: Run) -> None:
    found = run("train", "c", "--name", "fake")
    assert "held-out 2.10 bits per character" in found.out and "network: training" in found.out
    assert "fake@1 is trained: 1.96 bits per character" in found.out
    assert "Network alone 2.00, n-grams alone 2.50, Network and n-grams 1.98\n" in found.out


@pytest.mark.parametrize(
    ("kind", "command"),
    [("records", 'suggest n@1 "…"'), ("log", "score --model n@1 FILE"), ("code", 'complete n@1 "…"')],
)
def test_train_ends_with_the_command_for_a_model_of_the_kind(
    run: Run, server: FakeServer, kind: str, command: str
) -> None:
    server.training.more = {"kind": kind}
    assert run("train", "c", "--name", "n").err.endswith(f"try it: nextchar {command}\n")


def test_train_reports_default_masks(run: Run, server: FakeServer) -> None:
    server.training.more = {"masks": ["timestamp"], "masked_by_default": "masked by default: timestamp (300)"}
    found = run("train", "c", "--name", "n", "--no-follow")
    assert found.out == "job_1\n" and "masked by default: timestamp (300)" in found.err
    assert "timestamp" in run("jobs", "show", "job_1").out


def test_train_as_json_prints_one_event_per_line_and_the_job_last(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.2, evaluations=2)
    lines = [json.loads(line) for line in run("train", "c", "--name", "n", "--json").out.splitlines()]
    assert [line.get("type") for line in lines[:-1]] == ["message", "metrics", "sample", "metrics", "sample"]
    assert lines[-1]["model"] == "n@1"


def test_train_uploads_a_file_and_names_corpus_and_model_after_it(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "My notes.txt"
    file.write_text("some words\n")
    assert "My-notes@1 is trained" in run("train", str(file)).out
    (corpus,) = server.corpora.values()
    assert corpus["name"] == "My-notes"
    assert server.bodies("POST", "/v1/jobs") == [{"corpus": corpus["id"], "name": "My-notes"}]


def test_train_takes_the_corpus_where_a_file_has_its_name_and_says_so(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words").write_text("old words\n")
    run("corpus", "add", "words")
    Path("words").write_text("new words\n")
    found = run("train", "words", "--name", "n", "--no-follow")
    assert "using the corpus (write ./words for the file)" in found.err
    run("train", "./words", "--name", "n", "--no-follow")
    old, new = server.corpora.values()
    assert [body["corpus"] for body in server.bodies("POST", "/v1/jobs")] == ["words", new["id"]]
    assert (old["name"], new["name"]) == ("words", "words")  # which is its next version


@pytest.mark.parametrize("source", ["words.txt", "words.log.gz", "words"])
def test_train_uploads_without_a_name_if_the_key_does_not_permit_that_of_the_file(
    run: Run, server: FakeServer, tmp_path: Path, source: str
) -> None:
    server.permitted_names = "team-*"
    path = tmp_path / source
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(b"some words\n"))
    elif path.suffix:
        path.write_text("some words\n")
    else:
        path.mkdir()
        (path / "a.txt").write_text("some words\n")
    found = run("train", str(path), "--name", "team-a", "--no-follow")
    assert (found.status, found.out) == (0, "job_1\n")
    assert "words" in found.err and "without a name" in found.err
    (corpus,) = server.corpora.values()
    assert corpus["name"] is None
    assert path.is_dir() or corpus["sample"] == "some words\n"
    assert server.bodies("POST", "/v1/jobs") == [{"corpus": corpus["id"], "name": "team-a"}]
    archive = {"archive": "tar"} if path.is_dir() else {}
    assert server.uploads[-1] == archive


def test_train_names_what_is_missing(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run("train", "words.txt")
    assert refused.status == 2
    assert "there is no file 'words.txt', and there is no corpus" in refused.err
    Path("words").write_text("words\n")
    run("corpus", "add", "words")
    assert "words is both a corpus and a file" in run("train", "words").err
    run("corpus", "add", "-", stdin="no name")
    nameless = next(c for c in server.corpora.values() if c["name"] is None)["id"]
    assert "name the model with --name" in run("train", nameless).err


def test_train_takes_a_file_where_no_corpus_has_its_name(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("words\n")
    run("train", "words.txt", "--no-follow")
    assert [c["name"] for c in server.corpora.values()] == ["words"]
    assert run("train", "./missing.txt").err == "nextchar: missing.txt: No such file or directory\n"
