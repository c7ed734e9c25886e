"""ROC curves of an evaluation as a plot. Needs matplotlib, which `nextchar[serve]` brings along.

Two panels: the whole curve, and its start on a logarithmic axis, where thresholds are chosen.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Curve = Sequence[Sequence[float]]

_MIN_RATE = 1e-3  # start of the logarithmic axis


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plot(file: Path, title: str, curves: Mapping[str, tuple[float, Curve]]) -> None:
    """Write a plot in the format of the file's suffix, such as .svg, .png or .pdf.

    Args:
        file: the file to write.
        title: above both panels.
        curves: by name, the AUROC and the points (false-alarm rate, recall). The first is drawn thickest.

    Raises:
        ValueError: there is no such format.
        OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nextchar", "text.parse_math": False}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        figure.suptitle(title)
        for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
            _draw(axes, curves, scale)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _draw(axes: Any, curves: Mapping[str, tuple[float, Curve]], scale: str) -> None:
    axes.set(
        xscale=scale,
        xlabel="false-alarm rate" + (", logarithmic" if scale == "log" else ""),
        ylabel="recall",
        xlim=(_MIN_RATE if scale == "log" else 0, 1),
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    for index, (name, (auroc, points)) in enumerate(curves.items()):
        rates, recalls = zip(*points, strict=True)
        axes.plot(
            rates,
            recalls,
            label=f"{name}, AUROC {auroc:.4f}",
            linewidth=2.6 if index == 0 else 1.4,
            zorder=len(curves) - index + 2,  # the first on top
            gid=f"curve-{scale}-{index}",
        )
