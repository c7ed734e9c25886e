"""Values as people read them in a terminal: numbers, times, tables, and text made safe to show."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PICTURES = {point: 0x2400 + point for point in range(32)} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Marks that turn the direction of everything behind them would garble the rest of the line.
_PICTURES |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
_INLINE = _PICTURES | {ord("\n"): "⏎", ord("\t"): "→"}
_BLOCK = {k: v for k, v in _PICTURES.items() if k not in (ord("\n"), ord("\t"))}


def visible(text: str, *, inline: bool = False) -> str:
    r"""Return text that cannot command a terminal: control characters become pictures of themselves.

    Newlines and tabs stay, unless the text is to stay on one line.

    >>> visible("a\x1b[2J\n"), visible("a\n\tb", inline=True)
    ('a␛[2J\n', 'a⏎→b')
    """
    return text.translate(_INLINE if inline else _BLOCK)


def whole(number: float | None) -> str:
    """Return a number without decimals, with commas; a dash when it is not known."""
    return "–" if number is None else f"{number:,.0f}"


def bits(number: float | None) -> str:
    """Return bits per character with two decimals; a dash when they are not known."""
    return "–" if number is None else f"{number:.2f}"


def clock(seconds: float) -> str:
    """Return a duration as on a stopwatch.

    >>> clock(65.4), clock(7200)
    ('1:05', '2:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size(812), size(1_428_000)
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


def moment(unix_s: float) -> str:
    """Return a time in the local zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def print_table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads; through a pipe, tab-separated and without heads, for other programs."""
    if not console.is_terminal:
        for row in rows:
            print(*(visible(cell, inline=True) for cell in row), sep="\t", file=console.file)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell, inline=True)) for cell in row))
    console.print(table)


def print_fields(console: Console, fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; through a pipe, with a tab between."""
    if not console.is_terminal:
        for name, value in fields:
            print(name, visible(value, inline=True), sep="\t", file=console.file)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, Text(visible(value)))
    console.print(table)
