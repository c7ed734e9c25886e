"""Scores and distributions as they are shown in a terminal. Knows no HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.text import Text

from nextchar.answers import Distribution, Score
from nextchar.cli.heatmap import heatmap, legend, of_characters, peaks
from nextchar.cli.render import visible, whole

_AROUND = 24  # characters shown on each side of a peak
_PEAKS = 5


@dataclass(frozen=True)
class ScoredLine:
    """One line, with its number from 1, and the bits of its characters."""

    number: int
    text: str
    bits: Sequence[float]

    @property
    def mean(self) -> float:
        """Bits per character; 0 for an empty line."""
        return sum(self.bits) / len(self.bits) if self.bits else 0.0


def split_lines(text: str) -> list[str]:
    r"""Split at newlines only, each line keeping its own.

    >>> split_lines("a\u2028b\n\nc")
    ['a\u2028b\n', '\n', 'c']
    """
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def show(console: Console, score: Score, lines: Sequence[str], *, top: int | None) -> None:
    """Print the map of a scored text, or of its `top` most surprising lines where it has more."""
    scored = scored_lines(score, lines)
    summary = (
        f"{score['bits_per_character']:.2f} bits per character, {whole(score['total_bits'])} bits in all"
    )
    console.print(
        Text(f"{score['model']}: {whole(score['characters'])} characters, {summary}"), soft_wrap=True
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
        chosen: Sequence[ScoredLine] = scored
    else:
        chosen = sorted(scored, key=lambda line: -line.mean)[:top]
        console.print(
            Text(f"the {len(chosen)} most surprising of {whole(len(scored))} lines:"), soft_wrap=True
        )
    for line in chosen:
        console.print(Text(f"line {line.number}, {line.mean:.2f} bits per character", style="dim"))
        console.print(heatmap(line.text, line.bits, console))


def scored_lines(score: Score, lines: Sequence[str]) -> list[ScoredLine]:
    """Return each line with its bits, whether the text was scored as a whole or line by line."""
    if score["lines"] is not None:
        return [
            ScoredLine(number, line.removesuffix("\n"), _of_text(line.removesuffix("\n"), one["bits"] or []))
            for number, (line, one) in enumerate(zip(lines, score["lines"], strict=True), 1)
        ]
    bits, start, found = _of_text("".join(lines), score["bits"] or []), 0, []
    for number, line in enumerate(lines, 1):
        found.append(ScoredLine(number, line, bits[start : start + len(line)]))
        start += len(line)
    return found


def _of_text(text: str, bits: Sequence[float]) -> Sequence[float]:
    """Return bits as one a character; a model of bytes tells them for each byte."""
    return bits if len(bits) == len(text) else of_characters(text.encode(), bits)


def _print_peaks(console: Console, text: str, bits: Sequence[float]) -> None:
    found = peaks(bits, count=_PEAKS)
    if not found:
        return
    console.print()
    console.print(Text("most surprising"), style="dim")
    for peak in found:
        line = text.count("\n", 0, peak.start) + 1
        shown = Text(f"{peak.bits:6.1f} bits  line {line}  ", no_wrap=True, overflow="ellipsis")
        shown.append(visible(text[max(0, peak.start - _AROUND) : peak.start], inline=True), style="dim")
        shown.append(visible(text[peak.start : peak.end], inline=True), style="bold reverse")
        shown.append(visible(text[peak.end : peak.end + _AROUND], inline=True), style="dim")
        console.print(shown)


def distribution(answer: Distribution, console: Console) -> RenderableType:
    """Return the next character's distribution as bars."""
    cells = max(4, min(50, console.width - 20))
    full = "#" if console.options.ascii_only else "█"
    rows = [Text(f"{answer['model']}: entropy {answer['entropy_bits']:.2f} bits", style="dim")]
    for candidate in answer["candidates"]:
        shown = visible(candidate["character"], inline=True)
        shown = "␣" if shown == " " and not console.options.ascii_only else shown
        row = Text(f"  {shown}  {candidate['probability']:7.2%}  ")
        row.append(full * round(candidate["probability"] * cells), style="cyan")
        rows.append(row)
    return Group(*rows)
