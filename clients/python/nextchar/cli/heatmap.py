"""Surprisal by character in the terminal: the more bits a character cost, the hotter its background.

Without colours a row of bars below each row of text says the same. The scale is fixed, so two maps can
be compared. Knows no HTTP; takes a text and the bits of its characters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.text import Text

from nextchar.cli.render import visible

COOL_BITS, HOT_BITS = 4.0, 12.0  # below the first no background; at the second and above the hottest
_RAMP = ((255, 245, 200), (255, 204, 92), (244, 109, 67), (200, 20, 40), (110, 0, 90))
_BARS = " ▁▂▃▄▅▆▇█"
_DIGITS = " 123456789"
_LEGEND = ((2, "0-4"), (5, "4-6"), (7, "6-8"), (9, "8-10"), (11, "10-12"), (13, "12+"))


@dataclass(frozen=True)
class Peak:
    """A run of adjacent characters that cost much: text[start:end], and their bits together."""

    start: int
    end: int
    bits: float


def heatmap(
    text: str, bits: Sequence[float], console: Console, *, width: int | None = None
) -> RenderableType:
    """Return the map of a text for a console: `bits` are its characters', in order.

    Newlines are shown as ⏎ at the end of their line, because they cost bits too.
    """
    columns = width or min(console.width, 100)
    coloured = console.color_system is not None and not console.no_color
    rows: list[Text] = []
    for start, end in _rows(text, columns):
        row = Text(no_wrap=True, overflow="crop")
        marks = ""
        for character, cost in zip(text[start:end], bits[start:end], strict=True):
            shown = visible(character, inline=True)
            row.append(shown, style_of(cost) if coloured else None)
            marks += _mark(cost, ascii_only=console.options.ascii_only) * cell_len(shown)
        rows.append(row)
        if not coloured:
            rows.append(Text(marks.rstrip(), no_wrap=True, overflow="crop"))
    return Group(*rows)


def legend(console: Console) -> Text:
    """Return one line that explains the map's colours or bars."""
    coloured = console.color_system is not None and not console.no_color
    line = Text()
    line.append("bits  ", "dim")
    for cost, label in _LEGEND:
        if coloured:
            line.append(f" {label} ", style_of(cost))
        else:
            line.append(f"{_mark(cost, ascii_only=console.options.ascii_only)} {label}  ")
    return line


def style_of(cost: float) -> Style:
    """Return the style of a character that cost so many bits."""
    if cost < COOL_BITS:
        return Style()
    place = min(1.0, (cost - COOL_BITS) / (HOT_BITS - COOL_BITS)) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    share = place - index
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(_RAMP[index], _RAMP[index + 1], strict=True)
    )
    ink = Color.from_rgb(255, 255, 255) if place > 2.3 else Color.from_rgb(0, 0, 0)
    return Style(color=ink, bgcolor=Color.from_rgb(red, green, blue), bold=cost >= HOT_BITS)


def peaks(bits: Sequence[float], *, count: int, least_bits: float = 6.0) -> list[Peak]:
    """Return the most surprising runs of adjacent characters above `least_bits` each, costliest first.

    >>> peaks([0.1, 9.0, 7.0, 0.2, 8.0], count=2)
    [Peak(start=1, end=3, bits=16.0), Peak(start=4, end=5, bits=8.0)]
    """
    found: list[Peak] = []
    for place, cost in enumerate(bits):
        if cost < least_bits:
            continue
        if found and found[-1].end == place:
            found[-1] = Peak(found[-1].start, place + 1, found[-1].bits + cost)
        else:
            found.append(Peak(place, place + 1, cost))
    return sorted(found, key=lambda peak: (-peak.bits, peak.start))[:count]


def of_characters(data: bytes, bits: Sequence[float]) -> list[float]:
    """Return the bits of each character of a text from those of its bytes.

    >>> of_characters("é!".encode(), [1.0, 2.0, 4.0])
    [3.0, 4.0]
    """
    found: list[float] = []
    place = 0
    for character in data[: len(bits)].decode(errors="surrogateescape"):
        size = len(character.encode(errors="surrogateescape"))
        found.append(sum(bits[place : place + size]))
        place += size
    return found


def _mark(cost: float, *, ascii_only: bool) -> str:
    scale = _DIGITS if ascii_only else _BARS
    if cost < COOL_BITS:
        return " "
    share = min(1.0, (cost - COOL_BITS) / (HOT_BITS - COOL_BITS))
    return scale[1 + round(share * (len(scale) - 2))]


def _rows(text: str, columns: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of characters that stand in one row, cut behind newlines and, if need be, spaces."""
    start = 0
    while start < len(text):
        end, used, space = start, 0, None
        while end < len(text):
            used += cell_len(visible(text[end], inline=True))
            if used > columns and end > start:
                end = space if space is not None else end
                break
            end += 1
            if text[end - 1] == "\n":
                break
            if text[end - 1] == " ":
                space = end
        yield start, end
        start = end
