"""The lesson's benchmark for a few steps, and what it writes into the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lesson6 import LESSONS, main
from benchmarks.lesson6_page import filled
from nextchar.models.architectures import NAMES

ROOT = Path(__file__).parents[2]


PAGE = (
    "# Lesson\n<!-- table -->\nnothing\n<!-- end -->\nmine\n<!-- result numpy_rnn -->\nold\n<!-- end -->\n"
    "<!-- result scan_rnn -->\nkept\n<!-- end -->\n"
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat | sat <on> the mat & the dog sat on the log.\n" * 40)
    return path


def test_each_network_of_the_notes_has_its_lesson() -> None:
    assert set(LESSONS) == set(NAMES) - {"stateful_lstm"}


def test_it_trains_prints_and_fills_in_the_page(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lesson6.md").write_text(PAGE)
    pictures = tmp_path / "images"
    main([str(text), "--only", "numpy_rnn", "--quick", "--cores", "1", "--pictures", str(pictures)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "network", "theirs", "ours", "last", "epoch", "read", "again", "held-out", "bits", "seconds", "met"
    ]  # fmt: skip
    run: dict[str, Any] = json.loads(printed[-1])["runs"]["numpy_rnn"]
    assert run["steps"] == 20
    assert run["ours"] == run["read_again"] > 1
    page = (tmp_path / "lesson6.md").read_text()
    assert f"| works | **{run['ours']:.3f}** | {run['held_out_bits']:.3f} |" in page
    assert "nothing" not in page and "old" not in page and "mine" in page and "kept" in page
    assert (pictures / "lesson6-curves.svg").read_text().count("<svg") == 1
    main(["--redraw", "--pictures", str(pictures)])
    assert (tmp_path / "lesson6.md").read_text() == page


def test_the_page_of_the_documentation_has_a_place_for_every_network() -> None:
    page = (ROOT / "docs" / "engineering" / "lesson6.md").read_text()
    run = {
        "shape": "s", "parameters": 1, "epochs": 1, "seconds": 1, "theirs": None, "ours": 1.0,
        "measure": "read_again", "held_out_bits": 1.0, "machine": {"processor": "p", "cores": 1},
        "samples": [{"epoch": 0.5, "text": "a|b\n`c`"}],
    }  # fmt: skip
    page = filled(page, dict.fromkeys(LESSONS, run))
    assert page.count("| 0.50 | <code>a&#124;b⏎&#96;c&#96;</code> |") == len(LESSONS)
