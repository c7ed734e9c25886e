"""Spans of anomalous characters in a line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_MAX_GAP = 1  # spans with at most this many characters between them are merged


@dataclass(frozen=True)
class Span:
    """Anomalous characters line[start:end], their total surprisal, and what was expected, if known."""

    start: int
    end: int
    bits: float
    expected: str | None = None


def threshold_spans(
    bits: NDArray[np.float32], entropy: NDArray[np.float32], unknown: NDArray[np.bool_], *, threshold: float
) -> list[Span]:
    """Return the spans that are unknown (N,) or whose excess, bits - entropy (N,), is above the threshold."""
    positions = np.flatnonzero((bits - entropy > threshold) | unknown)
    return merged([Span(int(i), int(i) + 1, float(bits[i])) for i in positions])


def highest_window(bits: NDArray[np.float32], entropy: NDArray[np.float32], window: int = 12) -> list[Span]:
    """Return the `window` adjacent characters with the highest mean excess."""
    if not bits.size:
        return []
    window = min(window, len(bits))
    total = np.concatenate([[0.0], np.cumsum(bits - entropy, dtype=np.float64)])
    start = int((total[window:] - total[:-window]).argmax())
    return [Span(start, start + window, float(bits[start : start + window].sum()))]


def merged(marks: Sequence[Span]) -> list[Span]:
    """Return spans with at most _MAX_GAP characters between them as one."""
    spans: list[Span] = []
    for mark in marks:
        if spans and mark.start - spans[-1].end <= _MAX_GAP:
            span = spans[-1]
            # If there are characters between them, what was expected of the whole is unknown.
            expected = None
            if mark.start == span.end and span.expected is not None and mark.expected is not None:
                expected = span.expected + mark.expected
            spans[-1] = replace(span, end=mark.end, bits=span.bits + mark.bits, expected=expected)
        else:
            spans.append(mark)
    return spans
