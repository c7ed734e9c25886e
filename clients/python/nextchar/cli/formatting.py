"""Numbers, times, bars, curves, tables and untrusted text, formatted for a terminal."""

import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console
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
