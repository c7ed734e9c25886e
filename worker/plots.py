"""The learning curves of a training run, with baselines and the mixture as horizontal lines, as SVG.

The same figures give the same bytes, and text stays text. A style sheet in the SVG changes the colors for
readers who prefer dark pages.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nextchar.models.report import Evaluation

_INK, _MUTED, _LINE, _BLUE, _ORANGE = "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00"
_DARK = {_INK: "#f0f6fc", _MUTED: "#9198a1", _LINE: "#3d444d", _BLUE: "#4493f8", _ORANGE: "#f0883e"}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_POINTS_PER_INCH = 72  # points are the units of the SVG

_MIXTURE = "mixture"

_Key = Literal["validation_bits_per_character", "train_bits_per_character"]

CURVES: dict[_Key, tuple[str, str]] = {
    "validation_bits_per_character": ("held out", _BLUE),
    "train_bits_per_character": ("training", _ORANGE),
}


def curves_svg(
    curve: Sequence[Evaluation],
    baselines: Mapping[str, float],
    *,
    kept_step: int,
    mixture: float | None = None,
    width: int = 720,
    height: int = 400,
) -> str:
    """Return an SVG of bits per character by step.

    Args:
        curve: the evaluations; bits may be None.
        baselines: bits by name; those far above the curves are omitted.
        kept_step: the step whose weights are kept; it is marked.
        mixture: bits of the mixture that the model predicts with. The curves are of the network alone.
        width: in CSS pixels. Below 500 the axis has fewer ticks.
        height: in CSS pixels.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "nextchar",
        "font.family": ["DejaVu Sans"],
        "font.size": 12,
        "text.parse_math": False,
        "path.simplify": False,
    }
    narrow = width < 500
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH))
        FigureCanvasSVG(figure)
        right = 1 - (112 if narrow else 132) / width
        axes = figure.add_axes((34 / width, 62 / height, right - 34 / width, 1 - 100 / height))
        labels = _draw_curves(axes, curve, kept_step)
        lines = with_mixture(baselines, mixture)
        top, bottom = _range(curve, lines)
        axes.set_ylim(bottom, top)
        shown = {name: bits for name, bits in lines.items() if bits <= top}
        for name, bits in shown.items():
            color = _BLUE if name == _MIXTURE else _MUTED
            axes.axhline(bits, color=color, linewidth=1, dashes=(4, 3), zorder=1)
            labels.append((bits, f"{name} {bits:.2f}", color))
        _format_axes(axes, curve, ticks=2 if narrow else 5)
        _write_labels(axes, labels, gap=16 / (height - 100) * (top - bottom))
        figure.text(8 / width, 1 - 18 / height, "bits per character", color=_INK, fontsize=13, va="center")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _styled(file.getvalue(), width, height, describe(curve, shown))


def with_mixture(baselines: Mapping[str, float], mixture: float | None) -> dict[str, float]:
    """Return the horizontal lines of the picture: bits by name."""
    return {**({} if mixture is None else {_MIXTURE: mixture}), **baselines}


def _draw_curves(axes: Any, curve: Sequence[Evaluation], kept_step: int) -> list[tuple[float, str, str]]:
    """Draw both curves; return the labels of their ends: (bits, text, color)."""
    labels = []
    for key, (name, color) in CURVES.items():
        points = _points(curve, key)
        if not points:
            continue
        steps, bits = zip(*points, strict=True)
        axes.plot(steps, bits, color=color, linewidth=2, zorder=3, marker="o" if len(points) == 1 else None)
        labels.append((bits[-1], f"{name} {bits[-1]:.2f}", color))
        if key == "validation_bits_per_character" and kept_step in steps:
            axes.plot(
                [kept_step], [bits[steps.index(kept_step)]], "o", color=color, markersize=6, clip_on=False
            )
    return labels


def _range(curve: Sequence[Evaluation], baselines: Mapping[str, float]) -> tuple[float, float]:
    """Return the top and bottom of the axis; the curves are cut off above the unigram baseline."""
    bits = [value for key in CURVES for _, value in _points(curve, key)]
    top = max(bits, default=1.0)
    if "unigram" in baselines:
        last = [value for key in CURVES for _, value in _points(curve[-1:], key)]
        top = min(top, max(baselines["unigram"], *last, 0.0) * 1.04)
    low = min([*bits, *(b for b in baselines.values() if b <= top)], default=0.0)
    return top, max(0.0, low - 0.06 * (top - low) - 0.01)


def _points(curve: Sequence[Evaluation], key: _Key) -> list[tuple[int, float]]:
    """Return the (step, bits) of a curve."""
    return [(point["step"], bits) for point in curve if (bits := point[key]) is not None]


def _format_axes(axes: Any, curve: Sequence[Evaluation], *, ticks: int) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(length=0, pad=6, labelcolor=_MUTED, labelsize=11)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    last = max((p["step"] for p in curve), default=0)
    targets = [last * i / ticks for i in range(ticks + 1)]
    places = sorted({min(curve, key=lambda p: abs(p["step"] - t))["step"] for t in targets}) if curve else []
    by_step = {p["step"]: p for p in curve}
    names = []
    for place in places:
        point = by_step[place]
        first = place == places[0]
        names.append(
            f"{'step ' if first else ''}{place:,}\n{'epoch ' if first else ''}{point['epoch']:.3g}"
            f"\n{duration(point.get('elapsed_seconds') or 0.0)}"
        )
    axes.set_xticks(places, names)
    axes.set_xlim(0, max(last, 1))


def _write_labels(axes: Any, labels: Sequence[tuple[float, str, str]], *, gap: float) -> None:
    """Write labels at the right, each as near to its height as the others allow."""
    ordered = sorted(labels)
    heights = [bits for bits, _, _ in ordered]
    for _ in range(100):  # overlapping neighbors move apart, half each
        for i in range(1, len(heights)):
            missing = gap - (heights[i] - heights[i - 1])
            if missing > 0:
                heights[i - 1] -= missing / 2
                heights[i] += missing / 2
    for place, (_, text, color) in zip(heights, ordered, strict=True):
        axes.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            color=color, va="center", fontsize=11, annotation_clip=False,
        )  # fmt: skip


def _styled(svg: str, width: int, height: int, description: str) -> str:
    """Return matplotlib's SVG with our fonts, a description, and colors for dark pages."""
    svg = re.sub("<metadata>.*</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _FONTS, svg)
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    )
    return re.sub(r"<svg[^>]*>", f"{head}<title>{description}</title>{sheet}", svg, count=1)


def describe(curve: Sequence[Evaluation], baselines: Mapping[str, float]) -> str:
    """Return a text alternative of the picture."""
    parts = []
    for key, (name, _) in CURVES.items():
        points = _points(curve, key)
        if points:
            (first, before), (last, after) = points[0], points[-1]
            parts.append(f"{name} from {before:.2f} at step {first} to {after:.2f} at step {last}")
    parts += [f"{name} {bits:.2f}" for name, bits in baselines.items()]
    return "Bits per character: " + "; ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration with its unit.

    >>> duration(8.44), duration(600), duration(9000)
    ('8.44 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
