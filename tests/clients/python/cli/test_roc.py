"""The picture of ROC curves is well-formed, true to its points, and safe whatever names are in it."""

import re
from itertools import pairwise
from xml.etree import ElementTree

from nextchar.cli.roc import svg


def _paths(picture: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'class="curve[^"]*"[^>]* d="M([^"]*)"', picture)
    return [[(float(x), float(y)) for x, y in (p.split() for p in path.split("L"))] for path in found]


def test_curves_go_through_their_points() -> None:
    points = [(0.0, 0.0), (0.001, 0.25), (0.1, 0.5), (1.0, 1.0)]
    plain, logarithmic = _paths(svg("t", {"a": (0.75, points)}))
    (left, bottom), (right, top) = plain[0], plain[-1]
    side = right - left
    assert side == bottom - top
    assert [(round((x - left) / side, 3), round((bottom - y) / side, 3)) for x, y in plain] == [
        (0, 0), (0.001, 0.25), (0.1, 0.5), (1, 1)
    ]  # fmt: skip
    shares = [((x - logarithmic[0][0]) / side, (bottom - y) / side) for x, y in logarithmic]
    assert shares[0] == (0, 0.25) and shares[-1] == (1, 1)
    assert any(abs(x - 2 / 3) < 0.001 and y == 0.5 for x, y in shares)  # 0.1 is two of three decades
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(shares))


def test_the_first_curve_is_drawn_on_top_and_names_are_no_markup() -> None:
    diagonal = [(0.0, 0.0), (1.0, 1.0)]
    picture = svg("<b>&", {"ours <1>": (1.0, diagonal), "other": (0.5, diagonal)})
    root = ElementTree.fromstring(picture)  # noqa: S314 -- our own
    assert root[0].text == "<b>&"
    kinds = re.findall(r'class="(curve[^"]*)"', picture)
    assert kinds == ["curve", "curve first"] * 2
