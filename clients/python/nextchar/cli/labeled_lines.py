"""Labeled lines, read from a table of tab-separated values."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

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
