"""The picture of the curves."""

import math
from typing import Any
from xml.etree import ElementTree

import pytest

from nextchar.worker.report_page import curves_svg

CURVE: list[dict[str, Any]] = [
    {
        "step": i * 100,
        "epoch": i * 0.2,
        "elapsed_seconds": i * 3.1,
        "validation_bits_per_character": 1.9 + 4 * math.exp(-i / 2),
        "train_bits_per_character": None if i == 0 else 1.7 + 4 * math.exp(-i / 2),
    }
    for i in range(8)
]
BASELINES = {"unigram": 4.83, "5-gram": 2.41, "xz": 2.44, "uniform": 9.0}


def _texts(svg: str) -> list[tuple[float, str]]:
    """Each text with its height on the page."""
    found = []
    root = ElementTree.fromstring(svg)  # noqa: S314  we made it
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        transform = element.get("transform", "")
        y = element.get("y") or transform.partition("translate(")[2].partition(")")[0].split()[-1]
        found.append((float(y), "".join(element.itertext())))
    return found


def test_same_figures_give_the_same_bytes() -> None:
    pictures = [curves_svg(CURVE, BASELINES, kept_step=700) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) < 30_000


def test_text_is_text_and_names_curves_and_baselines() -> None:
    words = {text for _, text in _texts(curves_svg(CURVE, BASELINES, kept_step=700))}
    assert {"held out 2.02", "training 1.82", "unigram 4.83", "5-gram 2.41", "xz 2.44"} <= words
    assert not any("uniform" in word for word in words)  # far above the curves


def test_the_early_model_is_a_point_at_the_first_step() -> None:
    without, picture = (curves_svg(CURVE, BASELINES, kept_step=700, early=bits) for bits in (None, 1.7))
    assert "early" not in without
    assert "early model 1.70" in picture[: picture.index("</title>")]
    by_text = {text: y for y, text in _texts(picture)}
    assert by_text["early model 1.70"] > by_text["training 1.82"], "the axis reaches it"


@pytest.mark.parametrize("count", [1, 2])
def test_shortest_runs_can_be_drawn(count: int) -> None:
    svg = curves_svg(CURVE[:count], {}, kept_step=0)
    assert any(text.startswith("held out") for _, text in _texts(svg))
