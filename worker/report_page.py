"""The report as one HTML page, from the template report.html.j2.

Corpora and models can contain any characters. So the template escapes every value, and control characters are
replaced by visible symbols.

The learning curves of a training run, with baselines and the mixture as horizontal lines, as SVG.

The same figures give the same bytes, and text stays text. A style sheet in the SVG changes the colors for
readers who prefer dark pages.
"""

import base64
import io
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from nextchar.models.report import Evaluation, Passage, Report

_INK, _MUTED, _LINE, _BLUE, _ORANGE = "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00"
_DARK = {_INK: "#f0f6fc", _MUTED: "#9198a1", _LINE: "#3d444d", _BLUE: "#4493f8", _ORANGE: "#f0883e"}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_POINTS_PER_INCH = 72  # points are the units of the SVG

_MIXTURE, _EARLY = "mixture", "early model"
_PICTURE_BASELINES = ("unigram", "bigram", "ngram", "gzip", "xz", "ppmd")

_Key = Literal["validation_bits_per_character", "train_bits_per_character"]

CURVES: dict[_Key, tuple[str, str]] = {
    "validation_bits_per_character": ("held out", _BLUE),
    "train_bits_per_character": ("training", _ORANGE),
}


def picture(report: Report, *, width: int, height: int) -> str:
    """Return the learning curve of a report as SVG, with some of its baselines."""
    lines = {
        baseline_name(key, report): bits
        for key, bits in report.get("baselines", {}).items()
        if key in _PICTURE_BASELINES
    }
    return curves_svg(
        report["curve"],
        lines,
        kept_step=report["best_step"],
        **experts_shown(report),
        width=width,
        height=height,
    )


def curves_svg(
    curve: Sequence[Evaluation],
    baselines: Mapping[str, float],
    *,
    kept_step: int,
    mixture: float | None = None,
    early: float | None = None,
    width: int = 720,
    height: int = 400,
) -> str:
    """Return an SVG of bits per character by step.

    Args:
        curve: the evaluations; bits may be None.
        baselines: bits by name; those far above the curves are omitted.
        kept_step: the step whose weights are kept; it is marked.
        mixture: bits of the mixture that the model predicts with. The curves are of the network alone.
        early: bits of the early model, a point at step 0.
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
        lines = with_experts(baselines, mixture=mixture, early=early)
        top, bottom = _range(curve, lines)
        axes.set_ylim(bottom, top)
        shown = {name: bits for name, bits in lines.items() if bits <= top}
        for name, bits in shown.items():
            if name == _EARLY:
                axes.plot([0], [bits], "D", color=_BLUE, markersize=6, clip_on=False, zorder=4)
                _write(axes, f"{name} {bits:.2f}", (0, bits), "data", _BLUE, rise=-9)  # below its dashed line
                continue
            color = _BLUE if name == _MIXTURE else _MUTED
            axes.axhline(bits, color=color, linewidth=1, dashes=(4, 3), zorder=1)
            labels.append((bits, f"{name} {bits:.2f}", color))
        _format_axes(axes, curve, ticks=2 if narrow else 5)
        _write_labels(axes, labels, gap=16 / (height - 100) * (top - bottom))
        figure.text(8 / width, 1 - 18 / height, "bits per character", color=_INK, fontsize=13, va="center")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _styled(file.getvalue(), width, height, describe(curve, shown))


def with_experts(
    baselines: Mapping[str, float], *, mixture: float | None, early: float | None
) -> dict[str, float]:
    """Return the bits, by name, that the picture shows in addition to the curves."""
    experts = {_MIXTURE: mixture, _EARLY: early}
    return {**{name: bits for name, bits in experts.items() if bits is not None}, **baselines}


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
        _write(axes, text, (1, place), ("axes fraction", "data"), color)


def _write(
    axes: Any, text: str, at: tuple[float, float], unit: str | tuple[str, str], color: str, *, rise: float = 0
) -> None:
    """Write a text to the right of a place, `rise` points above its height."""
    axes.annotate(
        text, at, xycoords=unit, xytext=(8, rise), textcoords="offset points", color=color, va="center",
        fontsize=11, annotation_clip=False,
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


# Control characters become pictures of themselves, other unprintable ones U+FFFD.
_VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD)

_MAX_SAMPLES = 6
_MAX_PASSAGES = 3

_MEANINGS = {
    "uniform": "all characters equally likely",
    "unigram": "character frequencies",
    "bigram": "previous character",
    "ngram": "previous {context} characters",
    "gzip": "compression, with the 32 kB before",
    "xz": "compression, with the text before",
    "ppmd": "compression by contexts, with the text before",
}
_EXPERTS = {
    "mixture": "Mixture (what the model predicts with)",
    "lstm": "Network alone",
    "ngram": "n-grams alone",
    "without_matches": "Network and n-grams",
    "without_adaptation": "Mixture without adaptation",
    "early": "Early model, before training",
}
_VERDICTS = {
    "novel": "The model writes new text.",
    "repetitive": "Much of the generated text occurs in the training text, and so does held-out text:"
    " this kind of text repeats itself.",
    "copies": "The model copies its training text, more than held-out text repeats it.",
}


def page(report: Report, *, wide: str | None, narrow: str | None) -> str:
    """Return the page with the curves as SVG, `narrow` for phones; missing parts are omitted."""
    bits = report["validation_bits_per_character"]
    baselines = {baseline_name(name, report): cost for name, cost in report.get("baselines", {}).items()}
    best = min(baselines.items(), key=lambda item: item[1], default=None)
    texts = report["memorization"]["generated"] if report.get("memorization") else []
    passages = sorted((p for text in texts for p in text["passages"]), key=lambda p: -p["length"])
    return _template().render(
        report=report,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report["created_at"])),
        best_baseline=best and {"name": best[0], "bits": best[1]},
        predictors=_predictors(report, bits) if baselines else [],
        experts=_experts(report),
        first_expert=_first_expert(report),
        verdicts=_VERDICTS,
        passages=_distinct(passages)[:_MAX_PASSAGES],
        samples=_spread(report.get("samples", []), _MAX_SAMPLES),
        description=describe(
            report["curve"], with_experts(report.get("baselines", {}), **experts_shown(report))
        ),
        wide=wide and _data_url(wide),
        narrow=narrow and _data_url(narrow),
    )


def experts_shown(report: Report) -> dict[str, float | None]:
    """Return the experts in the picture."""
    return {key: report.get("experts", {}).get(key) for key in ("mixture", "early")}  # type: ignore[misc]


def baseline_name(key: str, report: Report) -> str:
    """Return the name of a baseline for people."""
    return f"{report['ngram_order']}-gram" if key == "ngram" else key


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, finalize=_visible
    )
    environment.filters |= {"number": "{:,}".format, "duration": duration}
    environment.filters["percent"] = lambda fraction, digits: f"{fraction:.{digits}%}"
    return environment.get_template("report.html.j2")


def _visible(value: Any) -> Any:
    r"""Replace unprintable characters in a value of the template.

    >>> _visible("a\x1b")
    'a␛'
    """
    return value if isinstance(value, Markup) else str(value).translate(_VISIBLE)


def _predictors(report: Report, bits: float) -> list[dict[str, Any]]:
    """Return the rows of the table of baselines, with the model's, fewest bits first."""
    context = report.get("ngram_order", 1) - 1
    rows = [{"name": "this model", "bits": bits, "meaning": "", "is_model": True}]
    rows += [
        {
            "name": baseline_name(key, report),
            "bits": cost,
            "meaning": _MEANINGS.get(key, "").format(context=context),
            "is_model": False,
        }
        for key, cost in report["baselines"].items()
    ]
    return sorted(rows, key=lambda row: row["bits"])


def _experts(report: Report) -> list[dict[str, Any]]:
    """Return the rows of the table of experts; none for a report without them."""
    measured = dict(report.get("experts", {}))
    order = dict.fromkeys([_first_expert(report), *_EXPERTS])
    return [{"key": key, "name": _EXPERTS[key], "bits": measured[key]} for key in order if key in measured]


def _first_expert(report: Report) -> str:
    """Return the expert that a model is about: the network of the lecture notes, else the mixture."""
    is_of_lecture = report["network"]["architecture"] != "stateful_lstm"
    return "lstm" if is_of_lecture and "mixture" in report.get("experts", {}) else "mixture"


def _distinct(passages: Iterable[Passage]) -> list[Passage]:
    """Return passages without those contained in an earlier one."""
    distinct: list[Passage] = []
    for passage in passages:
        if not any(passage["text"] in other["text"] for other in distinct):
            distinct.append(passage)
    return distinct


def _spread(items: list[Any], count: int) -> list[Any]:
    """Return `count` items at even distances, with the first and the last; all, if there are fewer."""
    if len(items) <= count:
        return items
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
