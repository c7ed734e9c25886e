"""The plot of ROC curves has their points, both axes, and names as text."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nextchar.cli.evaluation import write_plot

_POINTS = [(0.0, 0.0), (0.001, 0.25), (0.1, 0.5), (1.0, 1.0)]


def _curve(picture: ElementTree.Element, gid: str) -> list[tuple[float, float]]:
    (group,) = [g for g in picture.iter() if g.get("id") == gid]
    (path,) = [p.get("d", "") for p in group.iter() if p.tag.endswith("path")]
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.e]+) ([-\d.e]+)", path)]


def test_curves_go_through_their_points_on_both_axes(tmp_path: Path) -> None:
    write_plot(tmp_path / "roc.svg", "t", {"a": (0.75, _POINTS)})
    picture = ElementTree.parse(tmp_path / "roc.svg").getroot()  # noqa: S314 -- our own
    linear = _curve(picture, "curve-linear-0")
    (left, bottom), (right, top) = linear[0], linear[-1]
    shares = [
        (round((x - left) / (right - left), 3), round((bottom - y) / (bottom - top), 3)) for x, y in linear
    ]
    assert shares == _POINTS
    third, _, last = (x for x, _ in _curve(picture, "curve-log-0")[-3:])  # 0.001, 0.1, 1: three decades
    second = _curve(picture, "curve-log-0")[-2][0]
    assert (second - third) / (last - third) == pytest.approx(2 / 3, abs=1e-3)


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    diagonal = [(0.0, 0.0), (1.0, 1.0)]
    write_plot(tmp_path / "roc.svg", "<b>& $x$", {"ours <1>": (1.0, diagonal), "other": (0.5, diagonal)})
    picture = ElementTree.parse(tmp_path / "roc.svg").getroot()  # noqa: S314 -- our own
    texts = " ".join("".join(e.itertext()) for e in picture.iter() if e.tag.endswith("}text"))
    for text in ("<b>& $x$", "ours <1>, AUROC 1.0000", "other, AUROC 0.5000", "recall"):
        assert text in texts


def test_other_formats_are_written_and_unknown_ones_refused(tmp_path: Path) -> None:
    write_plot(tmp_path / "roc.png", "t", {"a": (0.75, _POINTS)})
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="xyz"):
        write_plot(tmp_path / "roc.xyz", "t", {"a": (0.75, _POINTS)})
