"""What a notebook shows of a model: its figures, pictures, and texts in color by surprisal."""

import html
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nextchar.models.saved_model import Card

_COOL_BITS, _HOT_BITS = 2.0, 12.0  # the ends of a heat map's scale


def figures(card: Card) -> Iterator[tuple[str, str]]:
    """Yield what a model is and how well it predicts, by name."""
    report = card.report
    yield "name", card.name
    yield "network", f"{card.network.architecture}, {card.parameters:,} parameters"
    yield "kind of text", card.kind or "unknown"
    yield "vocabulary", f"{len(card.characters):,} {card.alphabet}"
    if (seconds := report.get("training_seconds")) is not None:
        yield "trained", f"{seconds:.0f} s, {report['steps']:,} steps"
    if bits := report.get("validation_bits_per_character"):
        experts, other = report.get("experts", {}), "network alone"
        first, second = bits, experts["lstm"] if "mixture" in experts else None
        if (
            second and card.network.architecture != "stateful_lstm"
        ):  # of the lecture notes: it is about itself
            first, second, other = second, bits, "mixture"
        yield "held out", f"{first:.2f} bits per character" + (f" ({other} {second:.2f})" if second else "")
    for name, bits in report.get("baselines", {}).items():
        yield f"{name} would have", f"{bits:.2f}"


def table(card: Card) -> str:
    """Return the figures as HTML."""
    cell = "<t{0} style='text-align:left'>{1}</t{0}>".format
    rows = ((cell("h", html.escape(name)), cell("d", html.escape(value))) for name, value in figures(card))
    return f"<table>{''.join(f'<tr>{name}{value}</tr>' for name, value in rows)}</table>"


@dataclass(frozen=True)
class Heatmap:
    """A text and the surprisal of its characters, (N,) bits; a notebook shows it in color."""

    text: str
    bits: NDArray[np.float32] = field(repr=False)

    def _repr_html_(self) -> str:
        cells = "".join(map(self._cell, self.text, self.bits.tolist()))
        return f'<pre style="white-space:pre-wrap;line-height:1.6">{cells}</pre>'

    @staticmethod
    def _cell(character: str, bits: float) -> str:
        heat = min(1.0, max(0.0, (bits - _COOL_BITS) / (_HOT_BITS - _COOL_BITS)))
        shown = "\u23ce\n" if character == "\n" else html.escape(character)
        style = f"background:rgb(220 40 30 / {heat:.2f})"
        return f'<span style="{style}" title="{bits:.1f} bits">{shown}</span>'


@dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows, as SVG."""

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg
