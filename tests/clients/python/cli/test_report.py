"""The training report in a terminal and as a page."""

import io
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nextchar.cli.report import experts_sentence, show
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import REPORT, REPORT_PAGE


def _shown(report: dict[str, Any], *, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, force_terminal=True, width=width, no_color=True, highlight=False)
    show(console, report)
    file.seek(0)
    return file.read()


def test_the_model_and_its_baselines_are_in_order_of_bits() -> None:
    shown = _shown({**REPORT, "model": "fake@2"})
    places = [shown.index(name) for name in ("This model", "5-gram", "xz", "Unigram")]
    assert places == sorted(places)
    assert "█▁ 6.00 to 2.25" in shown
    assert "after step 1,200" in shown
    assert "12.5%" in shown


def test_the_own_figure_of_a_network_of_the_lecture_notes_comes_first() -> None:
    network = REPORT["network"] | {"architecture": "nth_char"}
    experts = {"mixture": 1.06, "lstm": 2.86, "ngram": 2.5}
    report = {**REPORT, "model": "n@1", "network": network, "validation_bits_per_character": 1.06}
    shown = _shown(report | {"experts": experts}, width=120)
    assert "2.86 bits per character on held-out text by the network alone, 1.06 by the mixture" in shown
    assert shown.index("Network alone") < shown.index("Mixture (what")
    assert experts_sentence(network, {"experts": experts}) == "n-grams alone 2.50"


def test_experts_are_shown_in_their_order() -> None:
    shown = _shown({**REPORT, "model": "fake@2"})
    names = [
        "Mixture (what the model predicts with)",
        "Network alone",
        "n-grams alone",
        "Network and n-grams",
    ]
    places = [shown.index(name) for name in names]
    assert places == sorted(places) and "2.31" in shown
    assert "default weights" not in shown
    report = {**REPORT, "model": "fake@2", "mixture_weights": "default"}
    assert "default weights are used" in _shown(report, width=120)
    alone = _shown({**REPORT, "model": "fake@2", "experts": {"lstm": 2.25, "ngram": 2.5}})
    assert "Network alone" in alone and "Mixture" not in alone


def test_copied_passages_cannot_command_the_terminal() -> None:
    shown = _shown({**REPORT, "model": "fake@2"})
    assert "\x1b[2J" not in shown
    assert "never␛[2J written" in shown


def test_parts_that_are_missing_are_left_out() -> None:
    bare = {"model": "old@1", "network": REPORT["network"], "validation_bits_per_character": 2.0}
    shown = _shown(bare)
    assert "2.00" in shown
    assert "Baselines" not in shown and "Experts" not in shown


def test_the_page_is_opened_in_a_browser(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) is None)
    outcome = run("report", "fake", "--open")
    assert outcome.status == 0
    written = Path(outcome.out.strip())
    assert opened == [written.as_uri()]
    assert written.read_bytes() == REPORT_PAGE
    written.unlink()
    written.parent.rmdir()
