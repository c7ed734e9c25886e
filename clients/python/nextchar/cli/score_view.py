"""The scores of a text in a terminal: a summary, a heat map, and its most anomalous lines and places."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from nextchar.cli.formatting import format_integer, printable
from nextchar.cli.heatmap import character_bits, heatmap, legend, peaks
from nextchar.types import Score

_CONTEXT = 24  # characters shown on each side of a peak
_MAX_PEAKS = 5


@dataclass(frozen=True)
class LineSurprisal:
    """One line, its number from 1, and the surprisal of its characters in bits."""

    number: int
    text: str
    bits: Sequence[float]

    @property
    def mean(self) -> float:
        """Bits per character; 0 for an empty line."""
        return sum(self.bits) / len(self.bits) if self.bits else 0.0


def lines_of_text(text: str) -> list[str]:
    r"""Split at newlines only, each line keeping its own.

    >>> lines_of_text("a\u2028b\n\nc")
    ['a\u2028b\n', '\n', 'c']
    """
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def show(console: Console, score: Score, lines: Sequence[str], *, top: int | None) -> None:
    """Print the heat map of a scored text, or of its `top` most anomalous lines if it has more."""
    scored = scored_lines(score, lines)
    total = f"{format_integer(score['total_bits'])} bits in total"
    summary = f"{score['bits_per_character']:.2f} bits per character, {total}"
    console.print(
        Text(f"{score['model']}: {format_integer(score['characters'])} characters, {summary}"), soft_wrap=True
    )
    console.print(legend(console), soft_wrap=True)
    console.print()
    if top is None or len(scored) <= top:
        text = "".join(line.text for line in scored)
        bits = [cost for line in scored for cost in line.bits]
        if score["lines"] is None:
            console.print(heatmap(text, bits, console))
            _print_peaks(console, text, bits)
            return
        shown_lines: Sequence[LineSurprisal] = scored
    else:
        shown_lines = sorted(scored, key=lambda line: -line.mean)[:top]
        console.print(
            Text(f"the {len(shown_lines)} most anomalous of {format_integer(len(scored))} lines:"),
            soft_wrap=True,
        )
    for line in shown_lines:
        console.print(Text(f"line {line.number}, {line.mean:.2f} bits per character", style="dim"))
        console.print(heatmap(line.text, line.bits, console))


def scored_lines(score: Score, lines: Sequence[str]) -> list[LineSurprisal]:
    """Return each line with its bits, whether the text was scored as a whole or line by line."""
    if score["lines"] is not None:
        texts = [line.removesuffix("\n") for line in lines]
        scored = enumerate(zip(texts, score["lines"], strict=True), 1)
        return [LineSurprisal(n, text, _bits_of_text(text, one["bits"] or [])) for n, (text, one) in scored]
    bits, start, found = _bits_of_text("".join(lines), score["bits"] or []), 0, []
    for number, line in enumerate(lines, 1):
        found.append(LineSurprisal(number, line, bits[start : start + len(line)]))
        start += len(line)
    return found


def _bits_of_text(text: str, bits: Sequence[float]) -> Sequence[float]:
    """Return one number per character; a model of bytes gives one per byte."""
    return bits if len(bits) == len(text) else character_bits(text.encode(), bits)


def _print_peaks(console: Console, text: str, bits: Sequence[float]) -> None:
    found = peaks(bits, count=_MAX_PEAKS)
    if not found:
        return
    console.print()
    console.print(Text("highest surprisal"), style="dim")
    for peak in found:
        line = text.count("\n", 0, peak.start) + 1
        shown = Text(f"{peak.bits:6.1f} bits  line {line}  ", no_wrap=True, overflow="ellipsis")
        shown.append(printable(text[max(0, peak.start - _CONTEXT) : peak.start], inline=True), style="dim")
        shown.append(printable(text[peak.start : peak.end], inline=True), style="bold reverse")
        shown.append(printable(text[peak.end : peak.end + _CONTEXT], inline=True), style="dim")
        console.print(shown)
