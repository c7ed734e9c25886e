"""A model's training report as it is shown in a terminal. Knows no HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nextchar.cli.render import bits, print_fields, print_table, size, visible, whole

_STEPS = "▁▂▃▄▅▆▇█"
_BAR_CELLS = 30
_VERDICTS = {
    "novel": "next to nothing",
    "repetitive": "much, but held-out text repeats as much",
    "copies": "more than held-out text repeats",
}

Report = Mapping[str, Any]


def show(console: Console, report: Report) -> None:
    """Print what a training run told: figures, curves, baselines, copies, cost. Parts may be missing."""
    network = report["network"]
    fields = [
        ("model", report["model"]),
        ("network", f"{network['architecture']}, {network['layers']} x {network['units']} units"),
        ("bits", f"{bits(report.get('validation_bits_per_character'))} per character of held-out text"),
    ]
    for key, name in (
        ("validation_bits_per_character", "held out"),
        ("train_bits_per_character", "training"),
    ):
        points = [p[key] for p in report.get("curve", ()) if p[key] is not None]
        if points:
            drawn = "" if console.options.ascii_only else f"{sparkline(points)} "
            fields.append((name, f"{drawn}{bits(points[0])} to {bits(points[-1])}"))
    turned = report.get("validation_turned_at_step")
    if turned is not None:
        fields.append(("turned", f"after step {whole(turned)} held-out text cost more"))
    print_fields(console, fields)
    _show_baselines(console, report)
    _show_copies(console, report)
    _show_cost(console, report)
    for problem in report.get("problems", ()):
        console.print(Text(visible(problem)), soft_wrap=True)


def sparkline(values: Sequence[float]) -> str:
    """Return values as a row of blocks, the largest as the highest.

    >>> sparkline([8, 4.5, 1, 1])
    '█▅▁▁'
    """
    low, high = min(values), max(values)
    scale = (len(_STEPS) - 1) / (high - low) if high > low else 0.0
    return "".join(_STEPS[round((value - low) * scale)] for value in values)


def _show_baselines(console: Console, report: Report) -> None:
    if not report.get("baselines"):
        return
    costs = {
        f"{report['ngram_order']}-gram" if name == "ngram" else name: cost
        for name, cost in report["baselines"].items()
    } | {"this model": report["validation_bits_per_character"]}
    ordered = sorted(costs.items(), key=lambda item: item[1])
    _head(console, "bits per character, beside simple predictors")
    if not console.is_terminal:
        print_table(console, ("predictor", "bits"), [(name, bits(cost)) for name, cost in ordered])
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    full = "#" if console.options.ascii_only else "█"
    for name, cost in ordered:
        ours = name == "this model"
        bar = full * max(1, round(cost / ordered[-1][1] * min(_BAR_CELLS, console.width - 24)))
        style = "bold" if ours else ""
        table.add_row(
            Text(visible(name), style=style),
            Text(bits(cost), style=style),
            Text(bar, style="cyan" if ours else "dim"),
        )
    console.print(table)


def _show_copies(console: Console, report: Report) -> None:
    memory = report.get("memorization")
    if not memory:
        return
    texts = [*memory["generated"], memory["held_out"]]
    _head(
        console,
        f"what it copies: {_VERDICTS.get(memory['verdict'], memory['verdict'])}",
    )
    heads = ["at temperature", *(f"{t['temperature']:g}" for t in memory["generated"]), "held out"]
    rows = [
        [f"new {n}-grams", *(f"{t['novel'][n]:.0%}" if n in t["novel"] else "–" for t in texts)]
        for n in memory["held_out"]["novel"]
    ]
    rows.append(["longest copy", *(whole(t["longest"]) for t in texts)])
    rows.append(["copied", *(f"{t['copied']:.1%}" for t in texts)])
    print_table(console, heads, rows)
    passages = [p for text in memory["generated"] for p in text.get("passages", ())]
    if passages:
        longest = max(passages, key=lambda p: p["length"])
        shown = Text("longest  ", style="dim")
        shown.append(visible(longest["text"], inline=True), style="not dim")
        console.print(shown, soft_wrap=not console.is_terminal)


def _show_cost(console: Console, report: Report) -> None:
    cost = report.get("cost")
    if not cost:
        return
    _head(console, "what it cost")
    fields = [
        ("training", f"{whole(cost['seconds'])} s on {cost['cores']} cores"),
        ("read", f"{whole(cost['characters'])} characters, {report['epochs']:.3g} epochs"),
        ("speed", f"{whole(cost['characters_per_second'])} characters a second"),
        ("memory", f"{size(cost['peak_memory_bytes'])} at most"),
    ]
    if int8 := report.get("int8"):
        kept = "kept" if int8["kept"] else "not kept"
        fields.append(("int8", f"{int8['lost_nats']:+.4f} nats a character, {kept}"))
    print_fields(console, fields)


def _head(console: Console, words: str) -> None:
    if console.is_terminal:
        console.print()
        console.print(Text(words, style="bold"))
