"""Flagged lines as they are shown: in a terminal with the odd characters marked, in a pipe as they came.

Knows no HTTP; takes the service's records of lines.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text

from nextchar.cli.heatmap import heatmap, legend, of_characters
from nextchar.cli.lines import Line
from nextchar.cli.render import visible

ODD = Style(color="white", bgcolor="rgb(200,20,40)", bold=True)
"""How the characters are shown that made a line odd."""

_CONTEXT = 30  # characters shown on each side of a span in a line too long for some rows
_LONGEST_SHOWN = 600  # characters
_GUTTER = 22  # columns before a line
_EXPLAINED = 3  # spans of a line of which it is told what was expected

Record = Mapping[str, Any]
Alphabet = Literal["characters", "bytes"]


class View:
    """Shows lines on a console, one after the other."""

    def __init__(self, console: Console, *, alphabet: Alphabet, several: bool, everything: bool) -> None:
        self._console, self._alphabet, self._several = console, alphabet, several
        self._everything = everything
        self._file: str | None = None
        if everything:
            console.print(legend(console), soft_wrap=True)

    def show(self, line: Line, record: Record) -> None:
        """Show a line that the service tells of."""
        if "characters" in record and (self._everything or record.get("anomalous")):
            if self._everything:
                self._show_map(line, record)
            elif self._console.is_terminal:
                self._show_flagged(line, record)
            else:
                self._pass_on(line)

    def flush(self) -> None:
        """Let everything be seen that was shown."""
        self._console.file.flush()

    def _pass_on(self, line: Line) -> None:
        file = self._console.file
        named = f"{line.file}:".encode() if self._several else b""
        file.flush()
        file.buffer.write(named + line.data + b"\n")  # type: ignore[attr-defined]

    def _show_flagged(self, line: Line, record: Record) -> None:
        self._name(line)
        text, spans = as_characters(line, record, self._alphabet)
        if text.endswith("\r") and not any(span["end"] == len(text) for span in spans):
            text = text[:-1]
        row = Text()
        row.append(f"{line.number:>8,} ", "dim")
        row.append(f"{rarity(record['p_value']):<{_GUTTER - 9}}", "yellow")
        row.append(marked(text, spans, self._console))
        self._console.print(row, soft_wrap=True)
        for sentence in explanations(text, spans, record.get("expected")):
            self._console.print(Text(" " * _GUTTER + sentence, style="dim"), soft_wrap=True)

    def _show_map(self, line: Line, record: Record) -> None:
        self._name(line)
        text, spans = as_characters(line, record, self._alphabet)
        head = Text(f"line {line.number:,}, {record['bits_per_character']:.2f} bits per character", "dim")
        if record.get("anomalous"):
            head.append(f"  flagged, {rarity(record['p_value'])} normal lines", "not dim bold red")
        self._console.print(head, soft_wrap=True)
        bits = record["bits"]
        if self._alphabet == "bytes":
            bits = of_characters(line.data, bits)
        self._console.print(heatmap(text[: len(bits)], bits, self._console))
        if record.get("anomalous"):
            for sentence in explanations(text, spans, record.get("expected")):
                self._console.print(Text("  " + sentence, style="dim"), soft_wrap=True)

    def _name(self, line: Line) -> None:
        if self._several and line.file != self._file:
            self._file = line.file
            self._console.print(Text(visible(line.file), style="bold"), soft_wrap=True)


def as_characters(line: Line, record: Record, alphabet: Alphabet) -> tuple[str, list[dict[str, Any]]]:
    """Return a line's text, and its spans as places in it: a model of bytes counts bytes."""
    spans = list(record.get("spans") or ())
    if alphabet == "bytes":
        whole, places = _decoded(line.data)
        spans = [
            {**s, "start": places[s["start"]], "end": places[s["end"] - 1] + 1, "byte": s["start"]}
            for s in spans
        ]
        return whole, spans
    text: str = record["text"]
    return text, spans


def marked(text: str, spans: Sequence[Record], console: Console) -> Text:
    """Return a line with its spans marked by colour, or else by brackets; of a long one what is around."""
    coloured = console.color_system is not None and not console.no_color
    left, right = (">>", "<<") if console.options.ascii_only else ("⟦", "⟧")
    shown = Text()
    at = 0
    for start, end in _shown_parts(len(text), spans):
        if start > at:
            shown.append(" … ", "dim")
        at = start
        for span in spans:
            if start <= span["start"] < end:
                shown.append(visible(text[at : span["start"]], inline=True))
                odd = visible(text[span["start"] : span["end"]], inline=True)
                shown.append(odd if coloured else f"{left}{odd}{right}", ODD if coloured else None)
                at = span["end"]
        shown.append(visible(text[at:end], inline=True))
        at = max(at, end)
    if at < len(text):
        shown.append(f" … {len(text) - at:,} characters more", "dim")
    return shown


def explanations(
    text: str, spans: Sequence[Record], expected: Sequence[Sequence[Record]] | None = None
) -> list[str]:
    """Return what the model expected where it was surprised, a sentence each, where it is known."""
    told = []
    for span in spans[:_EXPLAINED]:
        odd = visible(text[span["start"] : span["end"]], inline=True)
        place = span.get("byte", span["start"])
        if expected and place < len(expected) and expected[place]:
            likely = ", ".join(
                f"{visible(c['character'], inline=True)!r} {c['probability']:.1%}" for c in expected[place]
            )
            told.append(f"at {odd!r}: {likely}")
        elif span.get("expected"):
            told.append(f"at {odd!r}: {visible(span['expected'], inline=True)!r} was expected")
        elif span.get("expected") == "":
            told.append(f"at {odd!r}: nothing was expected here")
    return told


def rarity(p_value: float) -> str:
    """Return a p-value as people say it.

    >>> rarity(0.0003125)
    '1 in 3,200'
    """
    return f"1 in {1 / p_value:,.0f}"


def normalized(line: Line) -> str:
    """Return a line as the text that is sent where JSON is wanted."""
    return unicodedata.normalize("NFC", line.data.decode(errors="replace"))


def _shown_parts(length: int, spans: Sequence[Record]) -> list[tuple[int, int]]:
    """Return what of a line is shown: all, or its beginning and the surroundings of its spans."""
    if length <= _LONGEST_SHOWN:
        return [(0, length)]
    parts = [(0, _CONTEXT)]
    for span in spans:
        end = min(span["end"], span["start"] + _LONGEST_SHOWN)
        start, end = max(0, span["start"] - _CONTEXT), min(length, end + _CONTEXT)
        if start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], max(end, parts[-1][1]))
        else:
            parts.append((start, end))
    return parts


def _decoded(data: bytes) -> tuple[str, list[int]]:
    """Return bytes as text, each that is not UTF-8 as U+FFFD, and the place in it of each byte."""
    text = data.decode(errors="surrogateescape")
    places = [i for i, c in enumerate(text) for _ in c.encode(errors="surrogateescape")]
    return "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in text), places
