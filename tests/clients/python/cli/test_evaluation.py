"""`nextchar evaluate` prints the results and draws the ROC curves."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from nextchar.cli import evaluation
from nextchar.cli.evaluation import write_plot
from tests.clients.python import fake_server
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


def test_evaluate_prints_the_table_and_draws_the_curves(run: Run, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("0\tfine\n1\tBad\n0\talso\tfine\n")
    outcome = run(
        "evaluate", "fake", str(tmp_path / "t.tsv"), "--roc", str(tmp_path / "roc.svg"), "--worst", "2"
    )
    assert outcome.status == 0
    (body,) = server.bodies("POST", "/v1/models/fake/evaluate")
    assert body["lines"] == ["fine", "Bad", "also\tfine"]
    assert (body["anomalous"], body["worst"]) == ([False, True, False], 2)
    rows = [line.split("\t") for line in outcome.out.splitlines()]
    assert ["fake@2", "1.0000", "1.0000", "100.0%", "100.0%", "100.0%"] in rows
    scores = [row[0] for row in rows if len(row) == 6]
    assert scores == ["fake@2", "5-gram, Witten-Bell", "length"]  # the best first
    assert (
        "7 normal and 0 anomalous" in outcome.out and "line 2, score 3.0, 1 in 4 normal lines" in outcome.out
    )
    picture = ElementTree.fromstring((tmp_path / "roc.svg").read_text())  # noqa: S314 -- our own
    texts = " ".join(picture.itertext())
    assert "fake@2 on t.tsv, 3 lines, 1 anomalous" in texts and "AUROC 0.7500" in texts
    assert run("evaluate", "fake", str(tmp_path / "t.tsv"), "--json").json["object"] == "evaluation"


@pytest.mark.parametrize(("characters", "end"), [("\n abc", ""), ("\n\r abc", "\r")])
def test_carriage_returns_are_evaluated_if_the_model_knows_them(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: str, end: str
) -> None:
    record = fake_server.model_record
    monkeypatch.setattr(fake_server, "model_record", lambda name: record(name) | {"characters": characters})
    (tmp_path / "t.tsv").write_bytes(b"0\tfine\r\n1\tBad\r\n")
    assert run("evaluate", "fake", str(tmp_path / "t.tsv")).status == 0
    (body,) = server.bodies("POST", "/v1/models/fake/evaluate")
    assert body["lines"] == [f"fine{end}", f"Bad{end}"]


def test_a_file_that_is_not_a_table_is_refused(run: Run, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no tab at all\n")
    found = run("evaluate", "fake", str(tmp_path / "log"))
    assert (found.status, found.err.count("\n")) == (1, 1)
    assert "line 1 has no text after its label and a tab" in found.err
    assert not server.requests


def test_without_matplotlib_the_plot_is_refused_before_the_evaluation(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "is_available", lambda: False)
    (tmp_path / "t.tsv").write_text("0\tfine\n1\tBad\n")
    outcome = run("evaluate", "fake", str(tmp_path / "t.tsv"), "--roc", str(tmp_path / "roc.svg"))
    assert outcome.status == 1 and "pip install matplotlib" in outcome.err
    assert not server.requests


_POINTS = [(0.0, 0.0), (0.001, 0.25), (0.1, 0.5), (1.0, 1.0)]


def test_other_formats_are_written_and_unknown_ones_refused(tmp_path: Path) -> None:
    write_plot(tmp_path / "roc.png", "t", {"a": (0.75, _POINTS)})
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="xyz"):
        write_plot(tmp_path / "roc.xyz", "t", {"a": (0.75, _POINTS)})
