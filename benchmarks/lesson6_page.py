"""Writes the pictures and figures of docs/engineering/lesson6.md from the results of benchmarks.lesson6.

Replaces the parts of the page between two comments:

    <!-- table --> ... <!-- end -->            all networks beside the notes
    <!-- result nth_char --> ... <!-- end -->  one network's line and its samples
"""

import re
from pathlib import Path
from typing import Any

Runs = dict[str, dict[str, Any]]

_PART = re.compile(r"(<!-- (table|result)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_SAMPLE_CHARACTERS = 160
_TRAIN, _HELD_OUT, _NOTES = "#2f6fb2", "#d1642a", "#777777"


def draw(runs: Runs, folder: Path) -> list[Path]:
    """Write the pictures into `folder`, update the page in its parent if it exists; return the files."""
    written = [draw_curves(runs, folder / "lesson6-curves.svg")]
    page = folder.parent / "lesson6.md"
    if page.exists():
        page.write_text(filled(page.read_text(), runs))
        written.append(page)
    return written


def filled(page: str, runs: Runs) -> str:
    """Return the page with its generated parts updated; parts without results are unchanged."""

    def part(match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        if kind == "table":
            return begin + table(runs) + end
        return begin + result(runs[name]) + end if name in runs else match[0]

    return _PART.sub(part, page)


def table(runs: Runs) -> str:
    """Return a Markdown table of all networks and the notes."""
    heads = "| name | network | weights | epochs | seconds | theirs | ours | held-out bits |"
    rows = [heads, "|---|---|---|---|---|---|---|---|"]
    for name, run in runs.items():
        theirs = "works" if run["theirs"] is None else f"{run['theirs']:.2f}"
        rows.append(
            f"| `{name}` | {run['shape']} | {run['parameters']:,} | {run['epochs']:g} | {run['seconds']:,.0f}"
            f" | {theirs} | **{run['ours']:.3f}** | {run['held_out_bits']:.3f} |"
        )
    machines = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in runs.values()})
    return "\n".join(rows) + f"\n\nMeasured by `make bench-lesson6` on {' and '.join(machines)}.\n"


def result(run: dict[str, Any]) -> str:
    """Return the figures and samples of one network in Markdown."""
    measure = "of the last epoch" if run["measure"] == "last_epoch" else "of the eighth character"
    theirs = "" if run["theirs"] is None else f", theirs {run['theirs']:.2f}"
    figures = (
        f"Training loss {measure} **{run['ours']:.3f}** nats{theirs}; held out {run['held_out_bits']:.3f}"
        f" bits per character; {run['epochs']:g} epochs in {run['seconds']:,.0f} s."
    )
    lines = [figures, "", "| epoch | sample |", "|---|---|"]
    lines += [f"| {s['epoch']:.2f} | {_code(s['text'][:_SAMPLE_CHARACTERS])} |" for s in run["samples"]]
    return "\n".join(lines) + "\n"


def draw_curves(runs: Runs, path: Path) -> Path:
    """Draw each network's training and held-out loss over the epochs, with the notes' figure as a line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 3
    count = -(-max(1, len(runs)) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lesson6", "font.size": 8}):
        figure = Figure(figsize=(9, 2.4 * count), layout="constrained")
        axes = figure.subplots(count, columns, squeeze=False).ravel()
        for axis, (name, run) in zip(axes, runs.items(), strict=False):
            points = run["curve"]
            _line(axis, points, "train_nats", _TRAIN, "training")
            _line(axis, points, "held_out_nats", _HELD_OUT, "held out")
            if run["theirs"] is not None:
                axis.axhline(run["theirs"], color=_NOTES, linewidth=0.8, linestyle="--", label="the notes")
            axis.set_title(name)
            axis.set_ylim(1.0, 3.6)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.25, linewidth=0.5)
        for axis in axes[len(runs) :]:
            axis.set_visible(False)
        axes[0].legend(frameon=False)
        figure.supxlabel("epochs")
        figure.supylabel("nats per character")
        figure.savefig(path, metadata={"Date": None})
    return path


def _line(axis: Any, points: list[dict[str, Any]], key: str, color: str, label: str) -> None:
    measured = [(point["epoch"], point[key]) for point in points if point[key] is not None]
    axis.plot(*zip(*measured, strict=True), color=color, linewidth=1.2, label=label)


def _code(text: str) -> str:
    """Return text as one line of code in a Markdown table."""
    one_line = "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)
    for character, instead in {"&": "&amp;", "<": "&lt;", "|": "&#124;", "`": "&#96;"}.items():
        one_line = one_line.replace(character, instead)
    return f"<code>{one_line}</code>"
