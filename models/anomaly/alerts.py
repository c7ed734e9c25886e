"""Alerts: flagged lines of one model grouped by their template and by where they are anomalous.

An *occurrence* is one flagged line. Occurrences with the same template and the same anomalous word are one
*alert*. Its id is a hash of the model's name, the template and that word, so it is the same in every process
and for every version of the model.

>>> key = alert_key_of("session 4711 opened for root", [Span(22, 26, 9.0)])
>>> key.template, key.span
('session <*> opened for root', '4:root')
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from nextchar.models.anomaly.spans import Span
from nextchar.models.text.line_tokens import WILDCARD
from nextchar.models.text.masks import CUSTOM_PLACEHOLDER, NAMED

Severity = Literal["info", "warning", "critical"]
Label = Literal["normal", "incident"]

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the most severe."""

MAX_LINE_CHARACTERS = 1_000
"""Of a line that is kept as an example; the rest is cut off."""

MAX_TEMPLATE_CHARACTERS = 500
"""Of a template as it is shown; its id is computed from all of it."""

MAX_TITLE_CHARACTERS = 200
"""Of the line in a title."""

_MAX_SPANS = 20  # of an example
_MAX_WORD_CHARACTERS = 60  # in a span key, and of each word in a value
_MAX_VALUE_CHARACTERS = 200
WARNING_P, CRITICAL_P = 1e-3, 1e-4
_PLACEHOLDERS = "".join({placeholder for placeholder, _ in NAMED.values()} | {CUSTOM_PLACEHOLDER})
_VARIABLE = re.compile(rf"\b(?:0[xX])?(?=[A-Fa-f]*\d)[\dA-Fa-f]+\b|\d+|[{_PLACEHOLDERS}]")  # in linear time
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class AlertKey:
    """What the occurrences of one alert share.

    Attributes:
        template: the line with WILDCARD for what changes. span: the number of the anomalous word in the
        template, from 0, and the word, as in `4:root`; empty if no word is anomalous. value: the anomalous
        words of the line that are values: that have a WILDCARD in the template. It is not part of the key.
    """

    template: str
    span: str
    value: str = field(default="", compare=False)

    @cached_property
    def template_id(self) -> str:
        """A hash of the template."""
        return _digest(self.template)

    def alert_id(self, model: str) -> str:
        """Return the id of the alert of the model with this name."""
        return "alert_" + _digest(f"{model}\n{self.template}\n{self.span}")


@dataclass(frozen=True)
class Occurrence:
    """One line that is flagged or a repeat.

    Attributes:
        model: the model's name, without its version. line: the original text. spans: its anomalous
        characters, as positions in `line`. estimated_p: the p-value without the bound that the number of
        calibration lines sets. time: when the line arrived, in Unix seconds. line_time: the time in the line,
        if it could be parsed. source: where it came from, as far as it is known. entry: the id of the entry
        of a Redis stream that brought it, if one did. owner: the API key that sent it, "" if none.
    """

    key: AlertKey
    model: str
    version: int
    line: str
    score: float
    p_value: float
    estimated_p: float
    spans: Sequence[Span]
    time: float
    line_time: float | None = None
    source: str = ""
    entry: str | None = None
    owner: str = ""

    @property
    def alert_id(self) -> str:
        """The id of its alert."""
        return self.key.alert_id(self.model)

    def dump(self) -> dict[str, Any]:
        """Return what is kept of it, for JSON: its texts are cut, and what is unknown is left out."""
        spans = [
            asdict(span)
            | {"end": min(span.end, MAX_LINE_CHARACTERS), "expected": (span.expected or "")[:100] or None}
            for span in self.spans[:_MAX_SPANS]
            if span.start < MAX_LINE_CHARACTERS
        ]
        kept: dict[str, Any] = {
            "id": self.alert_id,
            "template_id": self.key.template_id,
            "template": _writable(self.key.template[:MAX_TEMPLATE_CHARACTERS]),
            "span": _writable(self.key.span),
            "value": _writable(self.key.value),
            "line": _writable(self.line[:MAX_LINE_CHARACTERS]),
            "spans": spans,
            "source": _writable(self.source[:200]),
        }
        names = ("model", "version", "score", "p_value", "estimated_p", "time", "line_time", "owner")
        return kept | {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class AlertLabel:
    """The label that a person gave an alert.

    Attributes:
        score: with label `normal`, the highest score of its lines when it was labeled. values: with label
        `normal`, the values of the lines that are, each with the highest score that it had; None: all are.
    """

    label: Label
    score: float = 0.0
    values: Mapping[str, float] | None = None

    def covers(self, value: str) -> bool:
        """Return whether a line of the alert with this value of its AlertKey has the label."""
        return self.label == "incident" or self.values is None or value in self.values

    def lowered(self, score: float, value: str = "") -> float:
        """Return the score of a line: of a normal one, by how much it exceeds the labeled ones."""
        if self.label != "normal" or not self.covers(value):
            return score
        return max(0.0, score - (self.score if self.values is None else self.values[value]))


def alert_key_of(text: str, spans: Sequence[Span], *, template: str | None = None) -> AlertKey:
    """Return the alert key of a flagged line, from its masked text and the anomalous spans of that text.

    `template` is that of a model with templates (`nextchar.models.text.templates`), which has as many words
    as the line, or fewer if the last one stands for several; None: `template_of`.

    The anomalous word is the one that shares the most characters with the span of the most bits. Its number
    and its form in the template are stable where its own text is not: every unknown user name is one alert.
    """
    template = template_of(text) if template is None else template
    span = max(spans, key=lambda span: span.bits, default=None)
    if span is None:
        return AlertKey(template, "")
    words = list(_WORD.finditer(text))
    shared = [min(span.end, word.end()) - max(span.start, word.start()) for word in words]
    index = max(range(len(words)), key=lambda i: shared[i], default=None)
    if index is None:
        return AlertKey(template, "")
    words_of_template = template.split()
    index = min(index, len(words_of_template) - 1)  # a template may end in one wildcard for many words
    form = words_of_template[index][:_MAX_WORD_CHARACTERS]
    return AlertKey(template, f"{index}:{form}", _value(words, words_of_template, spans))


def _value(words: Sequence[re.Match[str]], words_of_template: Sequence[str], spans: Sequence[Span]) -> str:
    """Return the words with anomalous characters that are values, in their order."""
    last = len(words_of_template) - 1
    return " ".join(
        word[0][:_MAX_WORD_CHARACTERS]
        for i, word in enumerate(words)
        if WILDCARD in words_of_template[min(i, last)]
        and any(span.start < word.end() and word.start() < span.end for span in spans)
    )[:_MAX_VALUE_CHARACTERS]


def template_of(text: str) -> str:
    """Return the template of a masked line by a model without templates: what has digits is a parameter."""
    return " ".join(_VARIABLE.sub(WILDCARD, word) for word in text.split())


def title_of(line: str, span: tuple[int, int] | None) -> str:
    """Return a line as a title: its most anomalous part between `»` and `«`; of a long line, words near it.

    >>> title_of("session 4711 opened for root", (24, 28))
    'session 4711 opened for »root«'
    """
    start, end = span or (0, 0)
    end = min(end, start + MAX_TITLE_CHARACTERS)
    around = (MAX_TITLE_CHARACTERS - (end - start)) // (2 if start else 1)
    first, last = max(0, start - around), end + around
    if first:
        first = line.find(" ", first - 1, start - 1) + 1 or first
    if last < len(line):
        space = line.rfind(" ", end + 1, last + 1)
        last = space if space > 0 else last
    marked = f"»{line[start:end]}«" if end > start else ""
    cut = ("…" if first else "", "…" if last < len(line) else "")
    return f"{cut[0]}{line[first:start]}{marked}{line[end:last]}{cut[1]}"


def severity_of(p_value: float) -> Severity:
    """Return the severity of a line, or of the rarest line of an alert, by its estimated p-value.

    >>> severity_of(0.01), severity_of(0.001), severity_of(0.0001)
    ('info', 'warning', 'critical')
    """
    if p_value <= CRITICAL_P:
        return "critical"
    return "warning" if p_value <= WARNING_P else "info"


def _writable(text: str) -> str:
    """Return a text without unpaired surrogates, which no JSON parser but Python's accepts."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
