"""`nextchar evaluate`: how well a model separates anomalous lines from normal ones, and baselines.

ROC curves are plotted in two panels: the whole curve, and its start on a logarithmic axis, where thresholds
are chosen. That needs matplotlib, which `nextchar[serve]` brings along.

Labeled lines, read from a table of tab-separated values.
"""

import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self, Unpack

import typer
from rich.console import Console
from rich.text import Text
from typer import Argument, Option

from nextchar.cli.flagged_lines import highlighted, rarity
from nextchar.cli.formatting import (
    character_bits,
    format_integer,
    heatmap,
    legend,
    print_fields,
    print_heading,
    print_table,
    printable,
)
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command, fail, read_bytes
from nextchar.options import EvaluationOptions

NORMAL_LABELS = frozenset(
    {"0", "-", "normal", "norm", "ok", "benign", "good", "false", "no", "none", "negative"}
)
"""Labels of normal lines, in lower case, where none is named."""

_MAX_KINDS = 50


class InvalidTable(ValueError):
    """A file is not a table of labeled lines; `str()` says why."""


@dataclass(frozen=True)
class LabeledLines:
    """Lines in their order; carriage returns before line ends belong to them.

    Attributes:
        lines: their texts.
        anomalous: whether each is anomalous.
        kinds: the kind of each where the file has a column of kinds.
        numbers: the number of each in the file, from 1.
    """

    lines: list[str]
    anomalous: list[bool]
    kinds: list[str] | None
    numbers: list[int]

    def without_carriage_returns(self) -> Self:
        """Return the lines for a model that does not know carriage returns."""
        return replace(self, lines=[line.removesuffix("\r") for line in self.lines])


def read_labeled_lines(
    text: str, *, normal: Collection[str] = (), has_kinds: bool | None = None
) -> LabeledLines:
    r"""Read `label TAB text`, or `label TAB kind TAB text`, one per line. Empty lines are left out.

    Args:
        text: content of the file.
        normal: the labels of normal lines; none: those of NORMAL_LABELS, in upper or lower case.
        has_kinds: whether there is a column of kinds; None: if each line has two tabs or more and there are
            at most 50 kinds, half as many as lines.

    Raises InvalidTable.

    >>> read_labeled_lines("ok\tGET /\nbad\tGET /'--\n")
    LabeledLines(lines=['GET /', "GET /'--"], anomalous=[False, True], kinds=None, numbers=[1, 2])
    """
    rows = [
        (n, row.split("\t"))
        for n, row in enumerate(text.removeprefix("\ufeff").split("\n"), 1)
        if row.strip()
    ]
    if not rows:
        raise InvalidTable("the file is empty; each line is a label, a tab and the line's text")
    least = 3 if has_kinds else 2
    for number, row in rows:
        if len(row) < least:
            raise InvalidTable(
                f"line {number} has no {'kind and no ' if has_kinds else ''}text after its label and a tab"
            )
    if rows[0][1][0].lower() == "label":
        rows = rows[1:]
    if has_kinds is None:
        has_kinds = _looks_like_kinds([row for _, row in rows])
    labels = Counter(row[0] for _, row in rows)
    known = set(normal) or {label for label in labels if label.strip().lower() in NORMAL_LABELS}
    if not known & labels.keys() or not labels.keys() - known:
        found = ", ".join(repr(label) for label, _ in labels.most_common(8))
        more = " and more" if len(labels) > 8 else ""
        which = "all of them are" if known & labels.keys() else "none of them is"
        raise InvalidTable(
            f"the labels are {found}{more}: {which} {'' if normal else 'known to be '}normal;"
            " name the normal ones with --normal LABEL"
        )
    at = 2 if has_kinds else 1
    return LabeledLines(
        lines=["\t".join(row[at:]) for _, row in rows],
        anomalous=[row[0] not in known for _, row in rows],
        kinds=[row[1] for _, row in rows] if has_kinds else None,
        numbers=[number for number, _ in rows],
    )


def _looks_like_kinds(rows: Sequence[Sequence[str]]) -> bool:
    if any(len(row) < 3 for row in rows):
        return False
    return len({row[1] for row in rows}) <= min(_MAX_KINDS, len(rows) // 2)


Curve = Sequence[Sequence[float]]

_MIN_RATE = 1e-3  # start of the logarithmic axis
_SCORE_NAMES = {
    "length": "length",
    "punctuation": "punctuation",
    "template": "template",
    "ngram_5": "5-gram, Witten-Bell",
    "isolation_forest": "isolation forest",
}


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


@command
def evaluate(
    session: Session,
    model: ModelArgument,
    file: Annotated[
        Path | None,
        Argument(metavar="FILE", help="LABEL TAB TEXT, or LABEL TAB KIND TAB TEXT, one per line."),
    ] = None,
    normal: Annotated[
        list[str] | None,
        Option(
            metavar="LABEL",
            help="A label of normal lines; can be repeated. Default: 0, -, normal, ok and others.",
        ),
    ] = None,
    kind: Annotated[
        bool | None,
        Option(
            "--kind/--no-kind",
            help="Whether the file has a kind column (LABEL, KIND, TEXT). Default: detected.",
        ),
    ] = None,
    roc_file: Annotated[
        Path | None, Option("--roc", metavar="FILE", help="Plot the ROC curves as .svg, .png or .pdf.")
    ] = None,
    **options: Unpack[EvaluationOptions],
) -> None:
    """Evaluate a model on labeled lines, compared with baselines.

    Example: nextchar evaluate app labeled.tsv --roc roc.svg
    """
    if roc_file is not None and not is_available():
        raise fail("--roc needs matplotlib; install it with: pip install matplotlib")
    options.setdefault("worst", 3)
    alerts = options.get("alert_labels")
    if file is None and not alerts:
        raise typer.BadParameter("give a file of labeled lines, or --alerts")
    labeled = LabeledLines([], [], None, []) if file is None else _read(file, normal or (), has_kinds=kind)
    known = session.client.model(model)
    if "\r" not in known["characters"]:  # as in streams
        labeled = labeled.without_carriage_returns()
    if not session.as_json and session.err.is_terminal:
        also = " and those of labeled alerts" if alerts else ""
        session.print_note(f"evaluating {len(labeled.lines):,} lines{also} …")
    result = session.client.evaluate(model, labeled.lines, labeled.anomalous, **options)
    if session.as_json:
        session.print_json(result)
    else:
        _show(session.out, result, labeled, alphabet=known["alphabet"])
    if roc_file is not None:
        lines, anomalous = format_integer(result["lines"]), format_integer(result["anomalous"])
        source = file.name if file else "labeled alerts"
        title = f"{result['model']} on {source}, {lines} lines, {anomalous} anomalous"
        curves = {name: (found["auroc"], found["roc"]) for name, found in _scores(result).items()}
        try:
            write_plot(roc_file, title, curves)
        except ValueError as error:
            raise fail(f"{roc_file}: {error}") from None
        if not session.as_json:
            session.print_note(f"ROC curves written to {roc_file}")


def _read(file: Path, normal: Sequence[str], *, has_kinds: bool | None) -> LabeledLines:
    text = read_bytes(file).decode(errors="replace")
    try:
        return read_labeled_lines(text, normal=normal, has_kinds=has_kinds)
    except InvalidTable as error:
        raise fail(f"{file}: {error}") from None


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of the model's score, then those of the baselines, best first, by their names."""
    baselines = sorted(result["baselines"].items(), key=lambda item: -item[1]["auroc"])
    named = {_SCORE_NAMES.get(name, name): found for name, found in baselines}
    return {result["model"]: result["model_score"]} | named


def _show(console: Console, result: Mapping[str, Any], labeled: LabeledLines, *, alphabet: str) -> None:
    calibration, flagged, leaks = result["calibration"], result["flagged"], result["leaks"]
    lines, anomalous = format_integer(result["lines"]), format_integer(result["anomalous"])
    calibrated_on = format_integer(calibration["lines"])
    precision = "–" if flagged["precision"] is None else f"{flagged['precision']:.1%}"
    leaked = "none: no evaluated line is in the training text"
    if leaks["normal"] or leaks["anomalous"]:
        leaked = (
            f"{format_integer(leaks['normal'])} normal and {format_integer(leaks['anomalous'])} anomalous"
            f" evaluated lines ({format_integer(leaks['distinct'])} distinct) are also in the training text:"
            " these results are too optimistic"
        )
    threshold = (
        f"at a false-alarm rate of {100 * result['false_alarms']:.4g} %: recall {flagged['recall']:.1%},"
        f" precision {precision}, false alarms {flagged['false_alarm_rate']:.2%}"
    )
    fields = [
        ("model", result["model"]),
        ("evaluated", f"{lines} lines, {anomalous} of them anomalous; split: {result['split']}"),
        ("calibration", f"{calibration['name']}, {calibrated_on} lines ({calibration['source']})"),
        ("threshold", threshold),
        ("leaks", leaked),
    ]
    print_fields(console, fields)
    _show_scores(console, result)
    misses, false_alarms = result["worst_misses"], result["worst_false_alarms"]
    _show_lines(console, "Misses: anomalous lines with the lowest scores", misses, labeled, alphabet)
    _show_lines(
        console, "False alarms: normal lines with the highest scores", false_alarms, labeled, alphabet
    )


def _show_scores(console: Console, result: Mapping[str, Any]) -> None:
    rates = list(result["model_score"]["recall_at_false_alarms"])
    rows = [
        (
            name,
            f"{found['auroc']:.4f}",
            f"{found['average_precision']:.4f}",
            *(f"{found['recall_at_false_alarms'][rate]:.1%}" for rate in rates),
        )
        for name, found in sorted(_scores(result).items(), key=lambda item: -item[1]["auroc"])
    ]
    header = ("score", "AUROC", "avg. precision", *(f"recall at {float(rate):.1%}" for rate in rates))
    print_heading(console, f"Baselines, trained on {format_integer(result['trained_on'])} normal lines")
    print_table(console, header, rows)


def _show_lines(
    console: Console, heading: str, lines: Sequence[Mapping[str, Any]], labeled: LabeledLines, alphabet: str
) -> None:
    if not lines:
        return
    print_heading(console, heading)
    if console.is_terminal:
        console.print(legend(console), soft_wrap=True)
    for line in lines:
        is_of_file = line["index"] < len(labeled.lines)
        kind = "" if is_of_file else ", of an alert"
        if is_of_file and labeled.kinds:
            kind = f", {printable(labeled.kinds[line['index']], inline=True)}"
        p_value = "" if line["p_value"] is None else f", {rarity(line['p_value'])} normal lines"
        number = labeled.numbers[line["index"]] if is_of_file else line["index"] + 1
        head = f"line {number:,}{kind}, score {line['score']:.1f}{p_value}"
        console.print(Text(head, style="dim"), soft_wrap=True)
        bits = line["bits"]
        if alphabet == "bytes":
            text = labeled.lines[line["index"]] if is_of_file else line["text"]
            bits = character_bits(text.encode(), bits)
        if len(line["text"]) == len(bits):
            console.print(heatmap(line["text"], bits, console))
        else:  # bytes that are not UTF-8 have no known places in the text
            console.print(highlighted(line["text"], (), console), soft_wrap=True)
