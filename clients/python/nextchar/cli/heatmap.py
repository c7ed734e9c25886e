"""Heat maps of surprisal in a terminal: the more bits a character costs, the hotter its background.

Without color, a row of bars below each row of text shows the same. The scale is fixed, so that heat maps can
be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.text import Text

from nextchar.cli.formatting import printable

COOL_BITS, HOT_BITS = 4.0, 12.0  # no background below the first, the hottest from the second
_RAMP = ((255, 245, 200), (255, 204, 92), (244, 109, 67), (200, 20, 40), (110, 0, 90))
_BARS = " ▁▂▃▄▅▆▇█"
_DIGITS = " 123456789"
_LEGEND = ((2, "0-4"), (5, "4-6"), (7, "6-8"), (9, "8-10"), (11, "10-12"), (13, "12+"))


@dataclass(frozen=True)
class Peak:
    """A run of adjacent characters with high surprisal: text[start:end], and the sum of their bits."""

    start: int
    end: int
    bits: float


def heatmap(
    text: str, bits: Sequence[float], console: Console, *, width: int | None = None
) -> RenderableType:
    """Return the heat map of a text; `bits` has the surprisal of each of its characters.

    Newlines are shown as ⏎ at the end of their line, since they have a surprisal too.
    """
    columns = width or min(console.width, 100)
    has_color = console.color_system is not None and not console.no_color
    rows: list[Text] = []
    for start, end in _rows(text, columns):
        row = Text(no_wrap=True, overflow="crop")
        bars = ""
        for character, cost in zip(text[start:end], bits[start:end], strict=True):
            shown = printable(character, inline=True)
            row.append(shown, style_of(cost) if has_color else None)
            bars += _bar(cost, ascii_only=console.options.ascii_only) * cell_len(shown)
        rows.append(row)
        if not has_color and bars.strip():
            rows.append(Text(bars.rstrip(), no_wrap=True, overflow="crop"))
    return Group(*rows)


def legend(console: Console) -> Text:
    """Return one line that explains the colors or bars."""
    has_color = console.color_system is not None and not console.no_color
    line = Text()
    line.append("bits  ", "dim")
    for cost, label in _LEGEND:
        if has_color:
            line.append(f" {label} ", style_of(cost))
        else:
            line.append(f"{_bar(cost, ascii_only=console.options.ascii_only)} {label}  ")
    return line


def style_of(cost: float) -> Style:
    """Return the style of a character with this surprisal in bits."""
    if cost < COOL_BITS:
        return Style()
    place = min(1.0, (cost - COOL_BITS) / (HOT_BITS - COOL_BITS)) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    fraction = place - index
    red, green, blue = (
        round(a + (b - a) * fraction) for a, b in zip(_RAMP[index], _RAMP[index + 1], strict=True)
    )
    ink = Color.from_rgb(255, 255, 255) if place > 2.3 else Color.from_rgb(0, 0, 0)
    return Style(color=ink, bgcolor=Color.from_rgb(red, green, blue), bold=cost >= HOT_BITS)


def peaks(bits: Sequence[float], *, count: int, min_bits: float = 6.0) -> list[Peak]:
    """Return the runs of adjacent characters of at least `min_bits` each, those with most bits first.

    >>> peaks([0.1, 9.0, 7.0, 0.2, 8.0], count=2)
    [Peak(start=1, end=3, bits=16.0), Peak(start=4, end=5, bits=8.0)]
    """
    found: list[Peak] = []
    for place, cost in enumerate(bits):
        if cost < min_bits:
            continue
        if found and found[-1].end == place:
            found[-1] = Peak(found[-1].start, place + 1, found[-1].bits + cost)
        else:
            found.append(Peak(place, place + 1, cost))
    return sorted(found, key=lambda peak: (-peak.bits, peak.start))[:count]


def character_bits(data: bytes, bits: Sequence[float]) -> list[float]:
    """Return the surprisal of each character of a UTF-8 text from that of its bytes.

    >>> character_bits("é!".encode(), [1.0, 2.0, 4.0])
    [3.0, 4.0]
    """
    found: list[float] = []
    place = 0
    for character in data[: len(bits)].decode(errors="surrogateescape"):
        size = len(character.encode(errors="surrogateescape"))
        found.append(sum(bits[place : place + size]))
        place += size
    return found


def _bar(cost: float, *, ascii_only: bool) -> str:
    scale = _DIGITS if ascii_only else _BARS
    if cost < COOL_BITS:
        return " "
    fraction = min(1.0, (cost - COOL_BITS) / (HOT_BITS - COOL_BITS))
    return scale[1 + round(fraction * (len(scale) - 2))]


def _rows(text: str, columns: int) -> Iterator[tuple[int, int]]:
    """Yield the range of characters of each row; rows end after a newline, else after a space if possible."""
    start = 0
    while start < len(text):
        end, used, space = start, 0, None
        while end < len(text):
            used += cell_len(printable(text[end], inline=True))
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
