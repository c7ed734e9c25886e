"""Labelled lines from a table of tabs, and how a model did on them as it is shown in a terminal.

Knows no HTTP; takes the service's own evaluation.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from nextchar.cli.flagged import marked, rarity
from nextchar.cli.heatmap import heatmap, legend, of_characters
from nextchar.cli.render import print_fields, print_table, visible, whole

NORMAL_LABELS = frozenset(
    {"0", "-", "normal", "norm", "ok", "benign", "good", "false", "no", "none", "negative"}
)
"""Labels of normal lines, in small letters, where none is named."""

_MOST_KINDS = 50
_NAMES = {
    "length": "length",
    "punctuation": "punctuation",
    "ngram_5": "5-gram, Witten-Bell",
    "isolation_forest": "isolation forest",
}


class NotATable(ValueError):
    """A file of labelled lines that cannot be understood, with the sentence that says why."""


@dataclass(frozen=True)
class Labelled:
    """Lines in their order, the truth about each, and its kind where the file tells one."""

    lines: list[str]
    anomalous: list[bool]
    kinds: list[str] | None


def read_labelled(text: str, *, normal: Collection[str] = (), has_kinds: bool | None = None) -> Labelled:
    r"""Read `label TAB text`, or `label TAB kind TAB text`, a line each. Empty lines are left out.

    Args:
        text: of the whole file.
        normal: the labels of normal lines; none: those of NORMAL_LABELS, in any case of letters.
        has_kinds: whether there is a column of kinds; None: if each line has two tabs or more and there are
            at most 50 kinds, half as many as lines.

    Raises NotATable.

    >>> read_labelled("ok\tGET /\nbad\tGET /'--\n")
    Labelled(lines=['GET /', "GET /'--"], anomalous=[False, True], kinds=None)
    """
    rows = [
        (n, row.removesuffix("\r").split("\t"))
        for n, row in enumerate(text.removeprefix("\ufeff").split("\n"), 1)
        if row.strip()
    ]
    if not rows:
        raise NotATable("the file is empty; each line is a label, a tab and the line's text")
    least = 3 if has_kinds else 2
    for number, row in rows:
        if len(row) < least:
            raise NotATable(
                f"line {number} has no {'kind and no ' if has_kinds else ''}text behind its label and a tab"
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
        raise NotATable(
            f"the labels are {found}{more}: {which} normal{'' if normal else ', as far as is known'};"
            " name the normal ones with --normal LABEL"
        )
    at = 2 if has_kinds else 1
    return Labelled(
        lines=["\t".join(row[at:]) for _, row in rows],
        anomalous=[row[0] not in known for _, row in rows],
        kinds=[row[1] for _, row in rows] if has_kinds else None,
    )


def _looks_like_kinds(rows: Sequence[Sequence[str]]) -> bool:
    if any(len(row) < 3 for row in rows):
        return False
    return len({row[1] for row in rows}) <= min(_MOST_KINDS, len(rows) // 2)


def show(console: Console, told: Mapping[str, Any], labelled: Labelled, *, alphabet: str) -> None:
    """Print an evaluation: the table, what the threshold did, leaks, and the worst lines with their maps."""
    calibration, flagged, leaks = told["calibration"], told["flagged"], told["leaks"]
    odd = told["anomalous"]
    precision = "–" if flagged["precision"] is None else f"{flagged['precision']:.1%}"
    judged = f"{whole(told['lines'])} lines, {whole(odd)} of them anomalous; split: {told['split']}"
    against = f"{calibration['name']}, {whole(calibration['lines'])} lines ({calibration['source']})"
    found = f"recall {flagged['recall']:.1%}, precision {precision}"
    did = f"{found}, false alarms {flagged['false_alarm_rate']:.2%}"
    leaked = "none: no judged line was learned from"
    if leaks["normal"] or leaks["anomalous"]:
        leaked = (
            f"{whole(leaks['normal'])} normal and {whole(leaks['anomalous'])} anomalous lines judged were"
            f" also learned from, {whole(leaks['distinct'])} distinct; trust these figures the less"
        )
    fields = [
        ("model", told["model"]),
        ("judged", judged),
        ("calibration", against),
        ("threshold", f"for {100 * told['false_alarms']:.4g} % false alarms: {did}"),
        ("leaks", leaked),
    ]
    print_fields(console, fields)
    _show_table(console, told)
    _show_worst(
        console, "missed: anomalous lines with the lowest scores", told["worst_misses"], labelled, alphabet
    )
    _show_worst(
        console,
        "false alarms: normal lines with the highest scores",
        told["worst_false_alarms"],
        labelled,
        alphabet,
    )


def name_of(score: str) -> str:
    """Return what people call a score."""
    return _NAMES.get(score, score)


def _show_table(console: Console, told: Mapping[str, Any]) -> None:
    rates = list(told["model_score"]["recall_at_false_alarms"])
    qualities = {told["model"]: told["model_score"]}
    qualities |= {name_of(name): found for name, found in told["baselines"].items()}
    rows = [
        (
            name,
            f"{found['auroc']:.4f}",
            f"{found['average_precision']:.4f}",
            *(f"{found['recall_at_false_alarms'][rate]:.1%}" for rate in rates),
        )
        for name, found in sorted(qualities.items(), key=lambda item: -item[1]["auroc"])
    ]
    heads = ("score", "AUROC", "avg. precision", *(f"recall at {float(rate):.1%}" for rate in rates))
    _head(console, f"beside simple scores, which learned from {whole(told['trained_on'])} normal lines")
    print_table(console, heads, rows)


def _show_worst(
    console: Console, words: str, worst: Sequence[Mapping[str, Any]], labelled: Labelled, alphabet: str
) -> None:
    if not worst:
        return
    _head(console, words)
    if console.is_terminal:
        console.print(legend(console), soft_wrap=True)
    for line in worst:
        kind = f", {visible(labelled.kinds[line['index']], inline=True)}" if labelled.kinds else ""
        p_value = "" if line["p_value"] is None else f", {rarity(line['p_value'])} normal lines"
        head = f"line {line['index'] + 1:,}{kind}, score {line['score']:.1f}{p_value}"
        console.print(Text(head, style="dim"), soft_wrap=True)
        bits = line["bits"]
        if alphabet == "bytes":
            bits = of_characters(labelled.lines[line["index"]].encode(), bits)
        if len(line["text"]) == len(bits):
            console.print(heatmap(line["text"], bits, console))
        else:  # what stands between is no text of UTF-8, and its places are not known
            console.print(marked(line["text"], (), console), soft_wrap=True)


def _head(console: Console, words: str) -> None:
    if console.is_terminal:
        console.print()
        console.print(Text(words, style="bold"))
    else:
        print(f"# {words}", file=console.file)
