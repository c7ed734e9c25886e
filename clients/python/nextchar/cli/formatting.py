"""Numbers, times, bars, curves, tables, heat maps and untrusted text, formatted for a terminal.

In a heat map of surprisal a character that costs more bits has a hotter background. Without color, a row of
bars below each row of text shows the same. The scale is fixed, so that heat maps can be compared.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

_SYMBOLS = {point: 0x2400 + point for point in range(32)} | {127: 0x2421}
_SYMBOLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Bidirectional controls would garble the rest of the line.
_SYMBOLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
_ESCAPES = {point: f"\\u{point:04x}" for point in _SYMBOLS if point >= 32}
_INLINE = _SYMBOLS | {ord("\n"): "⏎", ord("\t"): "→"}
_BLOCK = {k: v for k, v in _SYMBOLS.items() if k not in (ord("\n"), ord("\t"))}

_BLOCKS = "▁▂▃▄▅▆▇█"

_UNLIMITED_CELLS = 10_000


def printable(text: str, *, inline: bool = False) -> str:
    r"""Return text without terminal control: control characters become visible symbols (U+2400 …).

    Newlines and tabs stay, unless `inline`.

    >>> printable("a\x1b[2J\n"), printable("a\n\tb", inline=True)
    ('a␛[2J\n', 'a⏎→b')
    """
    return text.translate(_INLINE if inline else _BLOCK)


def to_json(value: Any, *, indent: int | None = None) -> str:
    r"""Return a value as JSON without terminal control, which is escaped.

    >>> print(to_json("\x9b2J \x1b ä"))
    "\u009b2J \u001b ä"
    """
    return json.dumps(value, ensure_ascii=False, indent=indent).translate(_ESCAPES)


def format_network(described: Mapping[str, Any]) -> str:
    """Return the network of a job, a model or a report, with its preset if that is known.

    >>> network = {"architecture": "stateful_lstm", "layers": 1, "units": 256}
    >>> format_network({"network": network, "preset": "auto", "chosen_preset": "tiny"})
    'stateful_lstm, 1 x 256 units (preset auto: tiny)'
    >>> format_network({"network": network, "preset": "auto", "candidates": ["tiny", "small"]})
    'chosen when training starts (preset auto: tiny or small)'
    """
    network, preset = described["network"], described.get("preset")
    candidates, chosen = described.get("candidates"), described.get("chosen_preset")
    if candidates:
        return f"chosen when training starts (preset {preset}: {' or '.join(candidates)})"
    shape = f"{network['architecture']}, {network['layers']} x {network['units']} units"
    if chosen:
        return f"{shape} (preset {preset}: {chosen})"
    return f"{shape} (preset {preset})" if preset else shape


def format_integer(number: float | None) -> str:
    """Return a number without decimals, with commas; a dash for None."""
    return "–" if number is None else f"{number:,.0f}"


def format_bits(number: float | None) -> str:
    """Return bits per character with two decimals; a dash for None."""
    return "–" if number is None else f"{number:.2f}"


def format_duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours if need be.

    >>> format_duration(65.4), format_duration(7200)
    ('1:05', '2:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_size(count: int) -> str:
    """Return a number of bytes in the largest unit that leaves a number of at least 1.

    >>> format_size(812), format_size(1_428_000)
    ('812 bytes', '1.4 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    scaled = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        scaled /= 1000
        if scaled < 999.5:
            return f"{scaled:.1f} {unit}" if scaled < 10 else f"{scaled:.0f} {unit}"
    return f"{scaled:,.0f} TB"


def format_time(unix_s: float) -> str:
    """Return a Unix time in the local time zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def bar(fraction: float, cells: int, console: Console) -> str:
    """Return a horizontal bar that fills a fraction of `cells`."""
    return ("#" if console.options.ascii_only else "█") * round(fraction * cells)


def sparkline(values: Sequence[float], cells: int, *, max_ratio: float | None = None) -> str:
    """Return a curve as a row of block characters, the last value at its right end; long ones are averaged.

    With `max_ratio`, values above `max_ratio` times the lowest are cut off: the first losses of an untrained
    network would otherwise make a flat line of the rest.

    >>> sparkline([8, 4.5, 1, 1], 10), sparkline([9.0, 1.5, 1.2, 1.0], 10, max_ratio=1.5)
    ('█▅▁▁', '██▄▁')
    """
    if len(values) > cells:
        edges = [round(i * len(values) / cells) for i in range(cells + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    if max_ratio is not None:
        high = min(high, max_ratio * low)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((min(v, high) - low) / span * (len(_BLOCKS) - 1))] for v in values)


def print_heading(console: Console, words: str) -> None:
    """Print a section's heading; into a pipe, as a comment."""
    if console.is_terminal:
        console.print()
        console.print(Text(words, style="bold"))
    else:
        print(f"# {words}", file=console.file)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below a header; into a pipe, tab-separated and without it, for other programs."""
    if not console.is_terminal:
        for row in rows:
            print(*(printable(cell, inline=True) for cell in row), sep="\t", file=console.file)
        return
    shown = [[printable(cell, inline=True) for cell in row] for row in rows]
    table = _table(header, shown, whole_words=True)
    unlimited = console.options.update(max_width=_UNLIMITED_CELLS)
    if console.measure(table, options=unlimited).minimum > console.width:
        table = _table(header, shown, whole_words=False)
    console.print(table)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, whole_words: bool) -> Table:
    """Return a table; `whole_words`: ids and numbers stay on one line, so that they can be copied."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(header):
        is_prose = any(" " in row[i] for row in rows)
        table.add_column(name, overflow="fold", no_wrap=whole_words and not is_prose)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_fields(console: Console, fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair per line; into a pipe, with a tab between."""
    if not console.is_terminal:
        print_table(console, (), fields)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, Text(printable(value)))
    console.print(table)


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
