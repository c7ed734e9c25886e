"""`nextchar report`: a model's training report in the terminal, or as a page."""

import math
import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Option

from nextchar.cli.formatting import (
    bar,
    format_bits,
    format_integer,
    format_network,
    format_size,
    print_fields,
    print_heading,
    print_table,
    printable,
    sparkline,
)
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command

_BAR_CELLS, _CURVE_CELLS = 30, 40
_THIS_MODEL = "This model"
_BASELINE_NAMES = {
    "uniform": "Uniform (all characters equally likely)",
    "unigram": "Unigram (character frequencies)",
    "bigram": "Bigram (previous character)",
    "gzip": "gzip compression",
    "xz": "xz compression",
    "ppmd": "PPMd compression",
}
_VERDICTS = {
    "novel": "the model generates new text",
    "repetitive": "generated text repeats the training text, as held-out text does",
    "copies": "the model copies its training text, more than held-out text does",
}
_EXPERT_NAMES = {
    "mixture": "Mixture (what the model predicts with)",
    "lstm": "Network alone",
    "ngram": "n-grams alone",
    "without_matches": "Network and n-grams",
    "without_adaptation": "Mixture without adaptation",
    "early": "Early model, before training",
}
_DEFAULT_WEIGHTS = (
    "The held-out text is too short to learn the weights of the experts; default weights are used."
)


Report = Mapping[str, Any]


@command
def report(
    session: Session,
    model: ModelArgument,
    html: Annotated[Path | None, Option(metavar="FILE", help="Write the report as a page instead.")] = None,
    open_: Annotated[bool, Option("--open", help="Open the page in a browser instead.")] = False,
) -> None:
    """Show a model's training report: results, learning curves, baselines, memorization, cost.

    Example: nextchar report nietzsche --open
    """
    if not html and not open_:
        content = session.client.report(model)
        if session.as_json:
            session.print_json(content)
        else:
            show(session.out, content)
        return
    file = html or Path(tempfile.mkdtemp(prefix="nextchar-")) / "report.html"
    file.write_bytes(b"".join(session.client.report_file(model, "html")))
    session.print_result({"file": str(file)}, str(file))
    if open_ and not webbrowser.open(file.resolve().as_uri()):
        session.print_note("no browser could be started; open the file named above")


def show(console: Console, report: Report) -> None:
    """Print a report: results, curves, baselines, memorization, cost. Missing parts are left out."""
    fields = [
        ("model", report["model"]),
        ("network", format_network(report)),
        ("result", result_sentence(report["network"], report)),
    ]
    for part, name in (("validation", "held-out"), ("train", "training")):
        key = f"{part}_bits_per_character"
        points = [p[key] for p in report.get("curve", ()) if p[key] is not None]
        if points:
            curve = "" if console.options.ascii_only else f"{sparkline(points, _CURVE_CELLS)} "
            fields.append((name, f"{curve}{format_bits(points[0])} to {format_bits(points[-1])}"))
    if (best := report.get("validation_turned_at_step")) is not None:
        fields.append(("overfitting", f"held-out bits rise after step {format_integer(best)}"))
    if ended_early := report.get("ended_early"):
        fields.append(("early stopping", ended_early))
    print_fields(console, fields)
    _show_experts(console, report)
    _show_baselines(console, report)
    _show_memorization(console, report)
    _show_cost(console, report)
    if problems := report.get("problems"):
        print_heading(console, "Warnings")
        for problem in problems:
            console.print(Text(printable(problem)), soft_wrap=not console.is_terminal)


def _show_experts(console: Console, report: Report) -> None:
    if not (rows := _experts(report["network"], report)):
        return
    print_heading(console, "Experts, bits per character on held-out text")
    print_table(console, ("expert", "bits"), [(name, format_bits(bits)) for name, bits in rows])
    if report.get("mixture_weights") == "default":
        console.print(Text(_DEFAULT_WEIGHTS), soft_wrap=not console.is_terminal)


def _show_baselines(console: Console, report: Report) -> None:
    if not report.get("baselines"):
        return
    order = report.get("ngram_order", 0)
    names = _BASELINE_NAMES | {"ngram": f"{order}-gram (previous {order - 1} characters)"}
    results = {names.get(name, name): cost for name, cost in report["baselines"].items()}
    results[_THIS_MODEL] = report["validation_bits_per_character"]
    ordered = sorted(results.items(), key=lambda item: item[1])
    print_heading(console, "Baselines, bits per character on held-out text")
    if not console.is_terminal:
        print_table(console, ("baseline", "bits"), [(name, format_bits(cost)) for name, cost in ordered])
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    width = max(1, min(_BAR_CELLS, console.width - max(map(len, results)) - 8))
    for name, cost in ordered:
        is_model = name == _THIS_MODEL
        style = "bold" if is_model else ""
        table.add_row(
            Text(printable(name), style=style),
            Text(format_bits(cost), style=style),
            Text(bar(cost / ordered[-1][1], width, console), style="cyan" if is_model else "dim"),
        )
    console.print(table)


def _show_memorization(console: Console, report: Report) -> None:
    memorization = report.get("memorization")
    if not memorization:
        return
    generated, held_out = memorization["generated"], memorization["held_out"]
    texts = [*generated, held_out]
    verdict = memorization["verdict"]
    print_heading(console, f"Memorization: {_VERDICTS.get(verdict, verdict)}")
    header = ["", *(f"temperature {t['temperature']:g}" for t in generated), "held-out"]
    rows = [
        [f"new {n}-grams", *(f"{t['novel'][n]:.0%}" if n in t["novel"] else "–" for t in texts)]
        for n in held_out["novel"]
    ]
    rows.append(["longest copy", *(format_integer(t["longest"]) for t in texts)])
    rows.append(["copied", *(f"{t['copied']:.1%}" for t in texts)])
    print_table(console, header, rows)
    if withheld := memorization.get("withheld"):
        console.print(
            f"of {format_integer(withheld['probed'])} lines that are too rare to be suggested, it completes"
            f" {withheld['completed']:.0%} from their first halves, and would suggest"
            f" {withheld['suggested']:.0%}",
            soft_wrap=not console.is_terminal,
        )
    passages = [p for text in generated for p in text.get("passages", ())]
    if passages:
        longest = max(passages, key=lambda p: p["length"])
        shown = Text("longest copy: ", style="dim")
        shown.append(printable(longest["text"], inline=True), style="not dim")
        console.print(shown, soft_wrap=not console.is_terminal)


def _show_cost(console: Console, report: Report) -> None:
    cost = report.get("cost")
    if not cost:
        return
    print_heading(console, "Cost")
    fields = [
        ("time", f"{format_integer(cost['seconds'])} s on {cost['cores']} cores"),
        ("text", f"{format_integer(cost['characters'])} characters, {report['epochs']:.3g} epochs"),
        ("speed", f"{format_integer(cost['characters_per_second'])} characters per second"),
        ("peak memory", format_size(cost["peak_memory_bytes"])),
    ]
    if int8 := report.get("int8"):
        lost_bits = int8["lost_nats"] / math.log(2)
        kept = "kept" if int8["kept"] else "not kept"
        fields.append(("int8", f"{lost_bits:+.4f} bits per character, {kept}"))
    print_fields(console, fields)


def result_sentence(network: Mapping[str, Any], report: Report) -> str:
    """Return the bits of held-out text; of a network of the lecture notes its own figure comes first."""
    bits = format_bits(report.get("validation_bits_per_character"))
    if _is_network_first(network, report):
        alone = format_bits(report["experts"]["lstm"])
        return f"{alone} bits per character on held-out text by the network alone, {bits} by the mixture"
    return f"{bits} bits per character on held-out text"


def experts_sentence(network: Mapping[str, Any], report: Report) -> str:
    """Return the figures of the other experts, for models with a mixture; else ""."""
    if (report.get("experts") or {}).get("mixture") is None:
        return ""
    others = _experts(network, report)[2 if _is_network_first(network, report) else 1 :]
    return ", ".join(f"{name} {format_bits(bits)}" for name, bits in others)


def _experts(network: Mapping[str, Any], report: Report) -> list[tuple[str, float]]:
    """Return the name and the bits per character of each expert that was measured."""
    measured = report.get("experts") or {}
    order = ["lstm", *_EXPERT_NAMES] if _is_network_first(network, report) else _EXPERT_NAMES
    return [
        (_EXPERT_NAMES[key], measured[key]) for key in dict.fromkeys(order) if measured.get(key) is not None
    ]


def _is_network_first(network: Mapping[str, Any], report: Report) -> bool:
    """Return whether a model is about its network: one of the lecture notes, which a mixture hides."""
    experts = report.get("experts") or {}
    return network["architecture"] != "stateful_lstm" and {"lstm", "mixture"} <= experts.keys()
