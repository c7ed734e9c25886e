"""The page shows the parts of the report, and escapes all texts."""

from html.parser import HTMLParser
from typing import Any

from nextchar.worker.report_page import _visible, curves_svg, page

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\x00\ud800\u202e&\"'"


def _report(text: str) -> dict[str, Any]:
    copies = {"characters": 5000, "novel": {"4": 0.1, "32": 1.0}, "copied": 0.02, "longest": 40}
    passage = {"length": 40, "offset": 1234, "text": text}
    return {
        "name": "words",
        "created_at": 1795563600,
        "job": "job_1",
        "corpus": "corpus_1",
        "network": {"architecture": "stateful_lstm", "layers": 1, "units": 64},
        "parameters": 12345,
        "validation_bits_per_character": 2.0,
        "best_step": 100,
        "bits_lost_after_best": 0.3,
        "validation_turned_at_step": 100,
        "curve": [
            {
                "step": step,
                "epoch": step / 100,
                "elapsed_seconds": step / 10,
                "validation_bits_per_character": 3.0,
                "train_bits_per_character": 2.9,
            }
            for step in (0, 100, 200)
        ],
        "baselines": {"uniform": 6.0, "ngram": 2.5},
        "ngram_order": 5,
        "ngram_orders": [4.0, 3.5, 3.0, 2.6, 2.5],
        "baseline_characters": {"ngram": 5000, "compressed": 5000, "judged": 500},
        "memorization": {
            "verdict": "copies",
            "copied_from_characters": 32,
            "generated": [{"temperature": 1.0, **copies, "passages": [passage]}],
            "held_out": {**copies, "passages": []},
            "repeated": {"training": 0.5, "held_out": 0.0, "lead": 50, "continuation": 50},
            "withheld": {"lines": 1200, "probed": 63, "completed": 0.25, "suggested": 0.0},
            "searched_characters": 4000,
            "training_characters": 5000,
        },
        "samples": [{"step": step, "epoch": step / 100, "text": text} for step in range(9)],
        "training_seconds": 59.2,
        "characters_trained": 1000,
        "epochs": 2.0,
        "cost": {"characters_per_second": 1000, "cores": 2},
        "peak_memory_bytes": 10**9,
        "characters": {"train": 5000, "validation": 500},
        "rows": 8,
        "window": 32,
        "int8": {"lost_nats": 0.001, "kept": True},
        "report_seconds": 2.0,
        "problems": [],
    }


class _Elements(HTMLParser):
    """The names of all elements, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _page(report: dict[str, Any]) -> str:
    svg = curves_svg(report["curve"], {}, kept_step=100)
    return page(report, wide=svg, narrow=svg)


def test_texts_are_escaped() -> None:
    evil = {**_report(EVIL), "name": EVIL, "job": EVIL, "problems": [EVIL]}
    made, plain = _Elements(_page(evil)).found, _Elements(_page(_report("plain"))).found
    assert [tag for tag, _ in made if tag not in {"li", "ul"}] == [tag for tag, _ in plain]
    assert all(not name.startswith("on") for _, attributes in made for name in attributes)
    written = _page(evil)
    assert "\x1b" not in written and "\x00" not in written and "\ud800" not in written
    assert "&lt;script&gt;" in written


def test_page_needs_no_other_host() -> None:
    for tag, attributes in _Elements(_page(_report("plain"))).found:
        assert tag not in {"script", "link", "iframe", "base"}
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")


def test_page_shows_every_part() -> None:
    written = _page(_report("a sample of text"))
    for words in (
        "0.50 fewer", "5-gram", "After step 100", "a sample of text", "from character 1,234", "1,000 MB",
        "first 4,000 characters", "6 of 9 are shown", "+0.0010 nats",
    ):  # fmt: skip
        assert words in written, words


def test_page_says_how_often_withheld_lines_are_completed() -> None:
    text = " ".join(_page(_report("plain")).split())
    assert "Of 63 of the 1,200 lines that are too rare to be suggested, it completes 25% exactly" in text


def test_control_characters_become_visible_symbols() -> None:
    assert _visible("a\x1b\x7f\x9b\n\t<") == "a␛␡\ufffd\n\t<"
