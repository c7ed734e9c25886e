"""The heat map shows every character once, in place, and those of high surprisal in color or with bars."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from nextchar.cli.formatting import heatmap, legend, printable, style_of


def _console(*, has_color: bool, columns: int = 30, ascii_only: bool = False) -> Console:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii" if ascii_only else "utf-8", errors="replace")
    system = "truecolor" if has_color else None
    return Console(
        file=file, force_terminal=has_color, width=columns, color_system=system, no_color=not has_color
    )


def _shown(console: Console, text: str, bits: list[float]) -> str:
    with console.capture() as captured:
        console.print(heatmap(text, bits, console))
    return captured.get()


def test_without_color_bars_stand_below_characters_of_high_surprisal() -> None:
    shown = _shown(_console(has_color=False), "cat\ndog", [0.1, 12, 0.1, 5, 0.1, 0.1, 7.5])
    assert shown.split("\n") == ["cat⏎", " █ ▂", "dog", "  ▄", ""]


def test_hotter_means_another_color_and_cool_none() -> None:
    colors = [style_of(cost).bgcolor for cost in (0, 3.9, 5, 6, 8, 10, 12)]
    assert colors[:2] == [None, None]
    assert len(set(colors[2:])) == 5
    assert style_of(12) == style_of(50)


@given(st.text(st.characters(codec="utf-8"), max_size=80), st.integers(4, 40))
def test_every_character_is_shown_once_and_rows_fit(text: str, columns: int) -> None:
    console = _console(has_color=True, columns=columns)
    with console.capture() as captured:
        console.print(heatmap(text, [0.0] * len(text), console))
    rows = captured.get().removesuffix("\n").split("\n")
    assert "".join(rows) == printable(text, inline=True)
    assert all(cell_len(row) <= columns for row in rows)


@pytest.mark.parametrize("has_color", [True, False])
def test_the_legend_names_both_ends(*, has_color: bool) -> None:
    shown = legend(_console(has_color=has_color)).plain
    assert "0-4" in shown
    assert "12+" in shown
