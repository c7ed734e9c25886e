"""Flagged lines: in a terminal with their anomalous spans highlighted, into a pipe as they came."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text

from nextchar.cli.formatting import character_bits, heatmap, legend, printable
from nextchar.lines import Line

ANOMALOUS = Style(color="white", bgcolor="rgb(200,20,40)", bold=True)
"""Style of the characters that made a line anomalous."""

_CONTEXT = 30  # characters shown on each side of a span in a line too long for some rows
_MAX_SHOWN = 600  # characters
_RARITY_COLUMNS = 13
_MAX_EXPLAINED = 3  # spans of a line for which the expected text is shown

Record = Mapping[str, Any]
Alphabet = Literal["characters", "bytes"]


class LineView:
    """Prints scored lines on a console, one after the other."""

    def __init__(
        self, console: Console, *, alphabet: Alphabet, has_several_files: bool, show_all: bool = False
    ) -> None:
        self._console, self._alphabet, self._has_several_files = console, alphabet, has_several_files
        self._show_all = show_all
        self._file: str | None = None
        if show_all:
            console.print(legend(console), soft_wrap=True)

    def show(self, line: Line, record: Record) -> None:
        """Print a line that the service reports, if it is to be shown."""
        if "characters" in record and self._show_all:
            self._show_heat_map(line, record)
            self._console.file.flush()
        elif record.get("anomalous"):
            self.show_flagged(line, record)

    def show_flagged(self, line: Line, record: Record) -> None:
        """Print a flagged line, with its number if that is not 0; into a pipe, the line alone."""
        if self._console.is_terminal:
            self._show_highlighted(line, record)
        else:
            prefix = os.fsencode(f"{line.file}:") if self._has_several_files else b""
            self._console.file.flush()
            self._console.file.buffer.write(prefix + line.data + b"\n")  # type: ignore[attr-defined]
        self._console.file.flush()

    def _show_highlighted(self, line: Line, record: Record) -> None:
        self._show_file_name(line)
        text, spans = decode_spans(line, record, self._alphabet)
        if text.endswith("\r") and not any(span["end"] == len(text) for span in spans):
            text = text[:-1]
        row = Text().append(f"{line.number:>8,} " if line.number else "", "dim")
        row.append(f"{rarity(record['p_value']):<{_RARITY_COLUMNS}}", "yellow")
        indent = len(row)
        row.append(highlighted(text, spans, self._console))
        self._console.print(row, soft_wrap=True)
        self._explain(text, spans, record, indent=indent)

    def _show_heat_map(self, line: Line, record: Record) -> None:
        self._show_file_name(line)
        text, spans = decode_spans(line, record, self._alphabet)
        head = Text(f"line {line.number:,}, {record['bits_per_character']:.2f} bits per character", "dim")
        if record.get("anomalous"):
            head.append(f"  flagged, {rarity(record['p_value'])} normal lines", "not dim bold red")
        self._console.print(head, soft_wrap=True)
        bits = record["bits"]
        if self._alphabet == "bytes":
            bits = character_bits(line.data, bits)
        self._console.print(heatmap(text[: len(bits)], bits, self._console))
        if record.get("anomalous"):
            self._explain(text, spans, record, indent=2)

    def _explain(self, text: str, spans: Sequence[Record], record: Record, *, indent: int) -> None:
        reasons = [printable(record["reason"], inline=True)] if record.get("reason") else []
        for sentence in reasons + explain(text, spans, record.get("expected")):
            self._console.print(Text(" " * indent + sentence, style="dim"), soft_wrap=True)

    def _show_file_name(self, line: Line) -> None:
        if self._has_several_files and line.file != self._file:
            self._file = line.file
            self._console.print(Text(printable(line.file), style="bold"), soft_wrap=True)


def decode_spans(line: Line, record: Record, alphabet: Alphabet) -> tuple[str, list[dict[str, Any]]]:
    """Return a line's text and its spans in characters; the records of a model of bytes count bytes."""
    spans = list(record.get("spans") or ())
    if alphabet == "bytes":
        text, places = _decode(line.data)
        spans = [
            {**s, "start": places[s["start"]], "end": places[s["end"] - 1] + 1, "byte": s["start"]}
            for s in spans
        ]
        return text, spans
    return str(record["text"]), spans


def highlighted(text: str, spans: Sequence[Record], console: Console) -> Text:
    """Return a line with its spans in color, or else in brackets; of a long line, their context only."""
    has_color = console.color_system is not None and not console.no_color
    left, right = (">>", "<<") if console.options.ascii_only else ("⟦", "⟧")
    shown = Text()
    at = 0
    for start, end in _shown_parts(len(text), spans):
        if start > at:
            shown.append(" … ", "dim")
        at = start
        for span in spans:
            if start <= span["start"] < end:
                shown.append(printable(text[at : span["start"]], inline=True))
                anomalous = printable(text[span["start"] : span["end"]], inline=True)
                shown.append(
                    anomalous if has_color else f"{left}{anomalous}{right}", ANOMALOUS if has_color else None
                )
                at = span["end"]
        shown.append(printable(text[at:end], inline=True))
        at = max(at, end)
    if at < len(text):
        shown.append(f" … {len(text) - at:,} more characters", "dim")
    return shown


def explain(
    text: str, spans: Sequence[Record], expected: Sequence[Sequence[Record]] | None = None
) -> list[str]:
    """Return sentences that say what the model expected in place of the first spans, where it is known."""
    sentences = []
    for span in spans[:_MAX_EXPLAINED]:
        anomalous = printable(text[span["start"] : span["end"]], inline=True)
        place = span.get("byte", span["start"])
        if expected and place < len(expected) and expected[place]:
            candidates = ", ".join(
                f"{printable(c['character'], inline=True)!r} {c['probability']:.1%}" for c in expected[place]
            )
            sentences.append(f"at {anomalous!r}: {candidates}")
        elif span.get("expected"):
            sentences.append(f"at {anomalous!r}: {printable(span['expected'], inline=True)!r} was expected")
        elif span.get("expected") == "":
            sentences.append(f"at {anomalous!r}: nothing was expected here")
    return sentences


def rarity(p_value: float) -> str:
    """Return a p-value as "1 in so many".

    >>> rarity(0.0003125)
    '1 in 3,200'
    """
    return f"1 in {1 / p_value:,.0f}"


def normalized(line: Line) -> str:
    """Return a line as NFC text, for requests in JSON."""
    return unicodedata.normalize("NFC", line.data.decode(errors="replace"))


def _shown_parts(length: int, spans: Sequence[Record]) -> list[tuple[int, int]]:
    """Return the ranges of a line to show: all, or its beginning and the context of its spans."""
    if length <= _MAX_SHOWN:
        return [(0, length)]
    parts = [(0, _CONTEXT)]
    for span in spans:
        end = min(span["end"], span["start"] + _MAX_SHOWN)
        start, end = max(0, span["start"] - _CONTEXT), min(length, end + _CONTEXT)
        if start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], max(end, parts[-1][1]))
        else:
            parts.append((start, end))
    return parts


def _decode(data: bytes) -> tuple[str, list[int]]:
    """Return bytes as text, with U+FFFD for those that are not UTF-8, and each byte's place in the text."""
    text = data.decode(errors="surrogateescape")
    places = [i for i, c in enumerate(text) for _ in c.encode(errors="surrogateescape")]
    return "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in text), places
