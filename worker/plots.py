"""The picture of a training run: its curves, with the baselines as lines across, as SVG.

The same figures give the same bytes. Text stays text. Drawn for a light page; a style sheet inside of the
SVG turns the colours where the reader prefers dark.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

_INK, _MUTED, _LINE, _BLUE, _ORANGE = "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00"
_DARK = {_INK: "#f0f6fc", _MUTED: "#9198a1", _LINE: "#3d444d", _BLUE: "#4493f8", _ORANGE: "#f0883e"}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_POINTS = 72  # an inch; SVG's units here

CURVES = {
    "validation_bits_per_character": ("held out", _BLUE),
    "train_bits_per_character": ("training", _ORANGE),
}


def curves_svg(
    curve: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, float],
    *,
    kept_step: int,
    width: int = 720,
    height: int = 400,
) -> str:
    """Return an SVG of bits a character against steps.

    Args:
        curve: the evaluations, each with `step`, `epoch`, `elapsed_seconds` and the bits of CURVES, which
            may be None.
        baselines: bits by name; those far above the curves are left out.
        kept_step: the step whose weights are kept; it is marked.
        width: in CSS pixels. Below 500 there are fewer marks on the axis.
        height: likewise.
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
        figure = Figure(figsize=(width / _POINTS, height / _POINTS))
        FigureCanvasSVG(figure)
        right = 1 - (112 if narrow else 132) / width
        axes = figure.add_axes((34 / width, 62 / height, right - 34 / width, 1 - 100 / height))
        labels = _draw_curves(axes, curve, kept_step)
        top, bottom = _range(curve, baselines)
        axes.set_ylim(bottom, top)
        shown = {name: bits for name, bits in baselines.items() if bits <= top}
        for name, bits in shown.items():
            axes.axhline(bits, color=_MUTED, linewidth=1, dashes=(4, 3), zorder=1)
            labels.append((bits, f"{name} {bits:.2f}", _MUTED))
        _dress(axes, curve, marks=2 if narrow else 5)
        _write_labels(axes, labels, gap=16 / (height - 100) * (top - bottom))
        figure.text(8 / width, 1 - 18 / height, "bits per character", color=_INK, fontsize=13, va="center")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _finished(file.getvalue(), width, height, describe(curve, shown))


def _draw_curves(
    axes: Any, curve: Sequence[Mapping[str, Any]], kept_step: int
) -> list[tuple[float, str, str]]:
    """Draw both curves; return what is to be written beside their ends: (bits, text, colour)."""
    labels = []
    for key, (name, colour) in CURVES.items():
        points = [(p["step"], p[key]) for p in curve if p[key] is not None]
        if not points:
            continue
        steps, bits = zip(*points, strict=True)
        axes.plot(steps, bits, color=colour, linewidth=2, zorder=3, marker="o" if len(points) == 1 else None)
        labels.append((bits[-1], f"{name} {bits[-1]:.2f}", colour))
        if key == "validation_bits_per_character" and kept_step in steps:
            axes.plot(
                [kept_step], [bits[steps.index(kept_step)]], "o", color=colour, markersize=6, clip_on=False
            )
    return labels


def _range(curve: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> tuple[float, float]:
    """Return the top and bottom of the axis: the curves' beginning is cut off above what counting needs."""
    bits = [p[key] for p in curve for key in CURVES if p[key] is not None]
    top = max(bits, default=1.0)
    if "unigram" in baselines:
        last = [curve[-1][key] for key in CURVES if curve and curve[-1][key] is not None]
        top = min(top, max(baselines["unigram"], *last, 0.0) * 1.04)
    low = min([*bits, *(b for b in baselines.values() if b <= top)], default=0.0)
    return top, max(0.0, low - 0.06 * (top - low) - 0.01)


def _dress(axes: Any, curve: Sequence[Mapping[str, Any]], *, marks: int) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(length=0, pad=6, labelcolor=_MUTED, labelsize=11)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    last = max((p["step"] for p in curve), default=0)
    wanted = [last * i / marks for i in range(marks + 1)]
    places = sorted({min(curve, key=lambda p: abs(p["step"] - w))["step"] for w in wanted}) if curve else []
    by_step = {p["step"]: p for p in curve}
    names = []
    for place in places:
        point = by_step[place]
        first = place == places[0]
        names.append(
            f"{'step ' if first else ''}{place:,}\n{'epoch ' if first else ''}{point['epoch']:.3g}"
            f"\n{_clock(point.get('elapsed_seconds') or 0.0)}"
        )
    axes.set_xticks(places, names)
    axes.set_xlim(0, max(last, 1))


def _write_labels(axes: Any, labels: Sequence[tuple[float, str, str]], *, gap: float) -> None:
    """Write labels at the right, each at its height or as near to it as the others let it be."""
    ordered = sorted(labels)
    heights = [bits for bits, _, _ in ordered]
    for _ in range(100):  # neighbours that overlap push each other apart, half each
        for i in range(1, len(heights)):
            missing = gap - (heights[i] - heights[i - 1])
            if missing > 0:
                heights[i - 1] -= missing / 2
                heights[i] += missing / 2
    for place, (_, text, colour) in zip(heights, ordered, strict=True):
        axes.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            color=colour, va="center", fontsize=11, annotation_clip=False,
        )  # fmt: skip


def _finished(svg: str, width: int, height: int, description: str) -> str:
    """Return matplotlib's SVG with our fonts, a description, and colours for dark pages."""
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


def describe(curve: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> str:
    """Return in words what the picture shows, for those who do not see it."""
    said = []
    for key, (name, _) in CURVES.items():
        points = [(p["step"], p[key]) for p in curve if p[key] is not None]
        if points:
            (first, before), (last, after) = points[0], points[-1]
            said.append(f"{name} from {before:.2f} at step {first} to {after:.2f} at step {last}")
    said += [f"{name} {bits:.2f}" for name, bits in baselines.items()]
    return "Bits per character: " + "; ".join(said)


def _clock(seconds: float) -> str:
    """Return a duration for the axis.

    >>> _clock(8.4), _clock(90), _clock(7500)
    ('8 s', '1.5 min', '2.08 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
