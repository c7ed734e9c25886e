"""ROC curves as a small SVG of its own, legible on light and dark. Knows neither HTTP nor the terminal.

Two panels: the whole curve, and its beginning on a logarithmic axis, where thresholds are chosen.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

Curve = Sequence[Sequence[float]]

_SIDE = 260  # of a panel, in pixels
_LEFT, _TOP, _GAP = 56, 52, 70
_LEAST = 1e-3  # the smallest rate on the logarithmic axis
_COLOURS = ("#d1242f", "#1f77b4", "#2e8b57", "#b8860b", "#8e6bbf", "#7f7f7f")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 4", "1 3")

_STYLE = """
svg{background:#fff;color:#1f2328;font:12px system-ui,sans-serif}
text{fill:currentColor}.soft{fill:#656d76}.frame{fill:none;stroke:#8c959f}
.grid{stroke:#d0d7de}.chance{stroke:#8c959f;stroke-dasharray:3 4}.curve{fill:none;stroke-width:1.6}
.first{stroke-width:2.6}.title{font-size:14px;font-weight:600}
@media(prefers-color-scheme:dark){svg{background:#0d1117;color:#e6edf3}.soft{fill:#9198a1}
.grid{stroke:#30363d}.curve,.key{filter:brightness(1.45)}}
""".strip()


def svg(title: str, curves: Mapping[str, tuple[float, Curve]]) -> str:
    """Return the picture of curves by name, each with its AUROC and its points (false-alarm rate, recall).

    The first is drawn last and thickest.
    """
    width = _LEFT + 2 * _SIDE + _GAP + 20
    height = _TOP + _SIDE + 56 + 18 * len(curves)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
    ]
    for left, is_log in ((_LEFT, False), (_LEFT + _SIDE + _GAP, True)):
        parts += _axes(left, is_log=is_log)
        for index, (_, points) in reversed(list(enumerate(curves.values()))):
            parts.append(_line(points, left, index, is_log=is_log))
    for index, (name, (auroc, _)) in enumerate(curves.items()):
        y = _TOP + _SIDE + 60 + 18 * index
        wide = 2.6 if index == 0 else 1.6
        parts.append(f'<path class="key" d="M{_LEFT} {y - 4}h28" {_stroke(index)} stroke-width="{wide}"/>')
        figure = f'<tspan class="soft">AUROC {auroc:.4f}</tspan>'
        parts.append(f'<text x="{_LEFT + 38}" y="{y}">{escape(name)} {figure}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes(left: int, *, is_log: bool) -> list[str]:
    bottom = _TOP + _SIDE
    ticks = (0.001, 0.01, 0.05, 0.1, 1.0) if is_log else (0.0, 0.25, 0.5, 0.75, 1.0)
    parts = []
    for rate in ticks:
        x = _x(rate, left, is_log=is_log)
        label = f"{rate:.1%}" if 0 < rate < 0.01 else f"{rate:.0%}"
        parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    for recall in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(recall)
        parts.append(f'<path class="grid" d="M{left} {y}h{_SIDE}"/>')
        parts.append(f'<text class="soft" x="{left - 6}" y="{y + 4}" text-anchor="end">{recall:.0%}</text>')
    parts.append(f'<rect class="frame" x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>')
    chance = [(10 ** (-3 + i / 20), 10 ** (-3 + i / 20)) for i in range(61)] if is_log else [(0, 0), (1, 1)]
    parts.append(f'<path class="chance" fill="none" d="{_path(chance, left, is_log=is_log)}"/>')
    scale = ", logarithmic" if is_log else ""
    parts.append(
        f'<text x="{left + _SIDE / 2}" y="{bottom + 34}" text-anchor="middle">false alarms{scale}</text>'
        f'<text x="{left}" y="{_TOP - 10}">recall</text>'
    )
    return parts


def _line(points: Curve, left: int, index: int, *, is_log: bool) -> str:
    kind = "curve first" if index == 0 else "curve"
    shown = _from_least(points) if is_log else points
    return f'<path class="{kind}" {_stroke(index)} d="{_path(shown, left, is_log=is_log)}"/>'


def _from_least(points: Curve) -> list[tuple[float, float]]:
    """Return the part of a curve that a logarithmic axis has room for, from its recall at the least rate.

    A straight piece of the curve is bent on that axis, so places are put in between.
    """
    at = (_LEAST, max((recall for rate, recall in points if rate <= _LEAST), default=0.0))
    shown = [at]
    for rate, recall in points:
        if rate <= _LEAST:
            continue
        between = math.ceil(math.log(rate / at[0]) / math.log(1.2))
        for i in range(1, between):
            x = at[0] * (rate / at[0]) ** (i / between)
            shown.append((x, at[1] + (recall - at[1]) * (x - at[0]) / (rate - at[0])))
        at = (rate, recall)
        shown.append(at)
    return shown


def _path(points: Curve, left: int, *, is_log: bool) -> str:
    return "M" + "L".join(f"{_x(rate, left, is_log=is_log)} {_y(recall)}" for rate, recall in points)


def _x(rate: float, left: int, *, is_log: bool) -> float:
    share = 1 - math.log(max(rate, _LEAST)) / math.log(_LEAST) if is_log else rate
    return round(left + share * _SIDE, 1)


def _y(recall: float) -> float:
    return round(_TOP + (1 - recall) * _SIDE, 1)


def _stroke(index: int) -> str:
    dash = _DASHES[index % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")
